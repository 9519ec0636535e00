import pytest

from envkit.config import load as module
from envkit.config.load import load
from envkit.config.model import Config
from envkit.errors import InvalidInput


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SYSTEM_FILE", str(tmp_path / "system.toml"))
    monkeypatch.setattr(module, "USER_FILE", str(tmp_path / "user.toml"))
    return tmp_path


def test_without_anything_the_defaults_hold(files):
    assert load({}, {}) == Config()


def test_flags_win_over_variables_over_the_user_over_the_system(files):
    (files / "system.toml").write_text('store = "/a"\nowner = "a"\nnet = "host"\nroot = "/a"\n')
    (files / "user.toml").write_text('store = "/b"\nowner = "b"\nnet = "nat"\n')
    config = load({"store": "/d", "owner": None}, {"ENVKIT_STORE": "/c", "ENVKIT_OWNER": "c"})
    assert (config.root, config.net, config.owner, config.store) == ("/a", "nat", "c", "/d")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stor = 'x'", "unknown key 'stor'"),
        ("store = 5", "store must be a string"),
        ("net = 'bridge'", "'bridge' is no network"),
        ("root = 'rel'", "'rel' must be an absolute path"),
        ("store =", "cannot read"),
    ],
)
def test_a_bad_file_is_named_with_its_key(files, text, message):
    (files / "system.toml").write_text(text)
    with pytest.raises(InvalidInput) as caught:
        load({}, {})
    assert message in caught.value.brief
    assert str(files / "system.toml") in caught.value.brief


def test_a_bad_variable_is_named(files):
    with pytest.raises(InvalidInput, match="the variable ENVKIT_NET"):
        load({}, {"ENVKIT_NET": "x"})
