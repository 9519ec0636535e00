import itertools
import os

import pytest

from envkit.config import load as module
from envkit.config.load import VARIABLES, UnknownProfile, load
from envkit.config.model import Config
from envkit.drivers.caller import UnsafeFile
from envkit.errors import InvalidInput


class Files:
    """The system's file and the home of the user who calls."""

    def __init__(self, directory):
        self.system = directory / "system.toml"
        self.home = directory / "home"
        self.user = self.home / ".config/envkit/config.toml"
        self.user.parent.mkdir(parents=True)

    def load(self, flags=None, **variables):
        return load(flags or {}, {"HOME": str(self.home)} | variables)


@pytest.fixture
def files(tmp_path, monkeypatch):
    files = Files(tmp_path)
    monkeypatch.setattr(module, "SYSTEM_FILE", str(files.system))
    return files


def test_without_anything_the_defaults_hold(files):
    assert files.load() == Config(home=str(files.home))


def test_every_setting_can_come_from_a_file_and_from_a_variable(files):
    values = {
        "root": "/r",
        "store": "s3://bucket/place",
        "endpoint": "https://s3.example.org:9000/base",
        "region": "eu-west-1",
        "aws_profile": "my work",
        "owner": "lab",
        "net": "nat",
        "fetch": "offline",
        "cache_quota": "20G",
        "queue": "local",
        "slots": "3",
        "node_program": "/opt/bin/envkit",
    }
    assert set(values) == set(VARIABLES.values())
    files.user.write_text("".join(f'{key} = "{value}"\n' for key, value in values.items()))
    wanted = Config(**values, home=str(files.home))
    assert files.load() == wanted
    files.user.unlink()
    variables = {variable: values[key] for variable, key in VARIABLES.items()}
    assert files.load(**variables) == wanted
    assert files.load(values) == wanted


SOURCES = ("system", "user", "system profile", "user profile", "variable", "flag")
"""From the weakest to the strongest."""


@pytest.mark.parametrize("given", [c for n in range(1, 7) for c in itertools.combinations(SOURCES, n)], ids="+".join)
def test_the_last_source_that_says_something_wins(files, given):
    values = {source: f"/{number}" for number, source in enumerate(SOURCES)}
    for file, name in ((files.system, "system"), (files.user, "user")):
        lines = [f'store = "{values[name]}"'] if name in given else []
        lines.append("[profile.work]")
        lines += [f'store = "{values[f"{name} profile"]}"'] if f"{name} profile" in given else []
        lines += ["[profile.other]", 'store = "/never"']
        file.write_text("\n".join(lines))
    variables = {"ENVKIT_STORE": values["variable"]} if "variable" in given else {}
    flags = {"profile": "work", "store": values["flag"] if "flag" in given else None}
    assert files.load(flags, **variables).store == values[given[-1]]


def test_a_profile_changes_only_what_it_says(files):
    files.system.write_text('net = "host"\nowner = "lab"\nstore = "/a"\n[profile.work]\nstore = "/b"\nregion = "r1"\n')
    files.user.write_text('[profile.work]\nregion = "r2"\n')
    config = files.load({"profile": "work"})
    assert (config.net, config.owner, config.store, config.region) == ("host", "lab", "/b", "r2")
    assert config.profile == "work"


@pytest.mark.parametrize(
    ("flag", "variable", "user", "system", "wanted"),
    [
        ("a", "b", "c", "d", "a"),
        (None, "b", "c", "d", "b"),
        (None, "", "c", "d", "c"),
        (None, None, None, "d", "d"),
        (None, None, None, None, ""),
        ("", "b", "c", "d", ""),  # no profile, whatever the others say
        (None, None, "", "d", ""),
    ],
)
def test_which_profile_is_used(files, flag, variable, user, system, wanted):
    tables = "".join(f'[profile.{name}]\nstore = "/{name}"\n' for name in "abcd")
    for file, default in ((files.user, user), (files.system, system)):
        file.write_text(("" if default is None else f'default_profile = "{default}"\n') + tables)
    config = files.load({"profile": flag}, **({} if variable is None else {"ENVKIT_PROFILE": variable}))
    assert (config.profile, config.store) == (wanted, f"/{wanted}" if wanted else "")


def test_an_unknown_profile_is_refused_with_those_that_there_are(files):
    files.system.write_text("[profile.work]\n")
    files.user.write_text("[profile.home]\n")
    with pytest.raises(UnknownProfile, match="--profile: there is no profile 'wrok'") as caught:
        files.load({"profile": "wrok"})
    assert caught.value.resolution == "known profiles: home, work"
    with pytest.raises(UnknownProfile, match="the variable ENVKIT_PROFILE: there is no profile 'wrok'"):
        files.load(ENVKIT_PROFILE="wrok")
    files.user.write_text('default_profile = "wrok"\n')
    with pytest.raises(UnknownProfile) as caught:
        files.load()
    assert caught.value.brief == f"{files.user}: there is no such profile as default_profile says"
    files.system.unlink()
    with pytest.raises(UnknownProfile) as caught:
        files.load()
    assert "as a table [profile.NAME]" in caught.value.resolution


def test_a_bad_variable_or_flag_is_named(files):
    with pytest.raises(InvalidInput, match="the variable ENVKIT_NET must be one of none, nat, host"):
        files.load(ENVKIT_NET="x")
    with pytest.raises(InvalidInput, match="--root must be an absolute path"):
        files.load({"root": "x"})


def test_a_home_that_is_not_known_has_no_file(files):
    assert load({}, {"HOME": ""}).home == os.path.expanduser("~root")
    assert load({}, {"SUDO_UID": "54321"}).home == ""


def test_the_users_file_has_to_be_the_users(files):
    files.user.write_text("")
    files.user.chmod(0o646)
    with pytest.raises(UnsafeFile, match="others may write to it"):
        files.load()
    files.user.chmod(0o600)
    os.chown(files.user, 12_345, -1)
    with pytest.raises(UnsafeFile, match="belongs neither to you nor to root"):
        files.load()
    os.chown(files.user, 0, -1)
    assert files.load() == Config(home=str(files.home))
