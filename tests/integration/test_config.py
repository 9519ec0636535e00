"""Settings from files, variables and flags, through the command line as users call it: by sudo, with homes of theirs."""

import os
import shutil

import pytest
from commandline import Envkit, User

pytestmark = pytest.mark.root

BOB = User(54_322, 54_322, "bob")
CANARY = "hunter2"


class Host(Envkit):
    """The command line on a machine with files of its own below /etc, and users with homes."""

    def __init__(self, directory):
        super().__init__(f"{directory}/root")
        self.etc = f"{directory}/etc"
        self.homes = f"{directory}/home"
        os.makedirs(f"{self.etc}/envkit")
        os.makedirs(f"{self.homes}/bob/.config/envkit")
        with open("/etc/passwd", encoding="utf-8") as file:
            users = file.read()
        self._write(f"{self.etc}/passwd", f"{users}bob:x:{BOB.uid}:{BOB.gid}::{self.homes}/bob:/bin/sh\n")
        self._settings["HOME"] = f"{self.homes}/root"

    def argv(self, *words):
        script = 'mount -t overlay envkit-test -o "lowerdir=$0:/etc" /etc && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, self.etc, *super().argv(*words)]

    def environment(self, user=None, more=None):
        return super().environment(user, {"HOME": f"{self.homes}/root"} | (more or {}))

    def system(self, text):
        self._write(f"{self.etc}/envkit/config.toml", text)

    def of_bob(self, text, *, owner=BOB.uid, mode=0o600):
        path = f"{self.homes}/bob/.config/envkit/config.toml"
        self._write(path, text)
        os.chown(path, owner, BOB.gid)
        os.chmod(path, mode)
        return path

    def _write(self, path, text):
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


@pytest.fixture
def host(place):
    return Host(place)


def _store(host, *words, **options):
    """Which store a command uses: one that is not there says its name."""
    outcome = host(*words, "list", **options)
    assert outcome.code == 7, outcome
    return outcome.stderr.split("/nowhere/")[1].split()[0].rstrip(":")


def test_each_source_wins_over_the_ones_before(host):
    host.system('store = "/nowhere/system"\n[profile.work]\nstore = "/nowhere/system-profile"\n')
    assert _store(host, user=BOB) == "system"
    host.of_bob('store = "/nowhere/user"\n')
    assert _store(host, user=BOB) == "user"
    assert _store(host, "--profile", "work", user=BOB) == "system-profile"
    host.of_bob('store = "/nowhere/user"\n[profile.work]\nstore = "/nowhere/user-profile"\n')
    work = {"ENVKIT_PROFILE": "work"}
    assert _store(host, user=BOB, env=work) == "user-profile"
    variable = work | {"ENVKIT_STORE": "/nowhere/variable"}
    assert _store(host, user=BOB, env=variable) == "variable"
    assert _store(host, "--store", "/nowhere/flag", user=BOB, env=variable) == "flag"


def test_a_profile_is_chosen_by_flag_variable_or_default(host):
    tables = "".join(f'[profile.{name}]\nstore = "/nowhere/{name}"\n' for name in "abc")
    host.system(f'default_profile = "a"\n{tables}')
    assert _store(host) == "a"
    assert _store(host, env={"ENVKIT_PROFILE": "b"}) == "b"
    assert _store(host, "--profile", "c", env={"ENVKIT_PROFILE": "b"}) == "c"
    assert host("--profile=", "list").code == 0  # none: the store below the root, which makes itself


def test_sudo_reads_the_file_of_who_called_it_and_of_nobody_else(host):
    host.of_bob('store = "/nowhere/bob"\n')
    assert _store(host, user=BOB) == "bob"
    assert host("list").code == 0
    assert host("list", user=User(54_323, 54_323, "unknown")).code == 0


def test_an_unknown_profile_is_told_with_those_that_there_are(host):
    host.system("[profile.work]\n[profile.home]\n")
    host("--profile", "wrok", "list").fails(3, "there is no profile 'wrok'", "known profiles: home, work")
    host("--profile", "wrok", "run", "-e", "x", "--", "true").fails(125, "there is no profile 'wrok'")
    host("--profile", "wrok", "run", "-ex", "--", "true").fails(125, "there is no profile 'wrok'")


@pytest.mark.parametrize(
    ("text", "brief"),
    [
        ("secret_key = 'hunter2'", "secret_key: secrets do not belong in here"),
        ("[profile.work]\naws_secret_access_key = 'hunter2'", "[profile.work]: aws_secret_access_key: secrets do not"),
        ("store = 'hunter2", "not TOML, end of document"),
        ("store = s3://hunter2", "not TOML, line 1, column 9"),
        ("net = 'hunter2'", "net must be one of none, nat, host"),
        ("store = 's3://me:hunter2@bucket'", "store must not have a user name or password in it"),
        ("wrong = 'hunter2'", "unknown key 'wrong'"),
    ],
)
def test_a_bad_file_is_told_without_what_it_holds(host, text, brief):
    path = host.of_bob(text)
    for words in (["list", "--json"], ["run", "-e", "x", "--", "true"]):
        outcome = host(*words, user=BOB)
        assert outcome.code == (125 if "run" in words else 2)
        assert f"{path}: {brief}" in outcome.stderr
        assert CANARY not in outcome.stdout + outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_a_file_that_somebody_else_could_have_written_is_not_used(host, tmp_path):
    path = host.of_bob('store = "/nowhere/x"', owner=12_345, mode=0o644)
    host("list", user=BOB).fails(2, f"cannot use {path}: it belongs neither to you nor to root")
    host.of_bob('store = "/nowhere/x"', mode=0o646)
    host("list", user=BOB).fails(2, f"cannot use {path}: others may write to it", f"chmod go-w {path}")
    host.of_bob("#" * 100_000)
    host("list", user=BOB).fails(2, f"cannot use {path}: it has more than 65536 bytes")
    os.unlink(path)
    os.mkfifo(path)
    host("list", user=BOB, patience=20).fails(2, f"cannot use {path}: it is no regular file")
    os.unlink(path)
    os.symlink("/etc/shadow", path)
    host("list", user=BOB).fails(2, f"cannot use {path}: Permission denied")


def test_a_home_that_only_its_owner_may_read_is_read(host):
    """Opened with the user's rights; root may have none on a home on NFS."""
    host.of_bob('store = "/nowhere/bob"\n')
    home = f"{host.homes}/bob"
    for directory in (home, f"{home}/.config", f"{home}/.config/envkit"):
        os.chown(directory, BOB.uid, BOB.gid)
        os.chmod(directory, 0o700)
    assert _store(host, user=BOB) == "bob"


def test_the_systems_file_may_be_roots_alone(host):
    host.system('store = "/nowhere/system"\n')
    os.chmod(f"{host.etc}/envkit/config.toml", 0o600)
    assert _store(host, user=BOB) == "system"


def test_without_files_nothing_is_read(host):
    shutil.rmtree(f"{host.etc}/envkit")
    assert host("list", user=BOB).code == 0
