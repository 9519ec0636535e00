"""How a node is told which store a job is in."""

from envkit.cli.argv import read_called
from envkit.config.load import load
from envkit.config.model import Config
from envkit.queues.script import batch_script
from envkit.services.jobs.nodeflags import store_flags
from envkit.store.settings import key_variables

BUCKET = Config(store="s3://group/envkit", endpoint="https://s3.example.org", region="eu-1", aws_profile="lab")


def test_a_bucket_goes_with_how_it_is_reached():
    words = store_flags(BUCKET)
    flags = read_called([*words, "task", "alice", "ab" * 16, "cd" * 32])[0]
    told = load(flags, {})
    assert all(getattr(told, name) == getattr(BUCKET, name) for name in ("store", "endpoint", "region", "aws_profile"))


def test_a_directory_is_named_from_the_root(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert store_flags(Config(store="here", endpoint="https://s3.example.org")) == ["--store", f"{tmp_path}/here"]
    assert store_flags(Config()) == []


def test_keys_are_words_of_the_script_and_of_no_command():
    environment = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "it's $(secret)",
        "AZURE_CLIENT_ID": "b",
        "PATH": "/",
    }
    exports = key_variables(BUCKET.store, environment)
    assert list(exports) == ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
    assert key_variables("/srv/store", environment) == {}
    assert list(key_variables("az://box/envkit", environment)) == ["AZURE_CLIENT_ID"]
    script = batch_script(
        program="/bin/true", flags="", owner="a", token="b", digest="c", key="d" * 64, exports=exports
    )
    assert """\nexport AWS_SECRET_ACCESS_KEY='it'"'"'s $(secret)'\n""" in script
    assert "secret" not in script[script.index("command=") :]
