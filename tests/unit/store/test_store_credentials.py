"""Whose keys open a store in S3: variables, files, profiles; which one wins, and what is never shown."""

import os
import sys
import types

import pytest

from envkit.drivers.caller import Caller
from envkit.errors import EXIT_USAGE, InvalidInput
from envkit.store.credentials import find_access
from envkit.store.errors import UnusableCredentials
from envkit.store.settings import StoreSettings

SECRET = "s3cr3t"
VARIABLES = {"AWS_ACCESS_KEY_ID": "VARIABLE", "AWS_SECRET_ACCESS_KEY": SECRET}


class Home:
    """A home directory with the files of AWS in it."""

    def __init__(self, path):
        self.path = path
        self.caller = Caller(uid=os.getuid(), gid=os.getgid(), name="", home=str(path))
        (path / ".aws").mkdir()

    def write(self, name, text):
        path = self.path / ".aws" / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def access(self, profile="", **variables):
        return find_access(StoreSettings(profile=profile, caller=self.caller), variables)


@pytest.fixture
def home(tmp_path):
    home = Home(tmp_path)
    home.write(
        "credentials",
        f"[default]\naws_access_key_id = DEFAULT\naws_secret_access_key = {SECRET}\n\n"
        f"[lab]\naws_access_key_id = LAB\naws_secret_access_key = {SECRET}\naws_session_token = LABTOKEN\n",
    )
    home.write(
        "config",
        "[default]\nregion = eu-north-1\n[profile lab]\nregion = eu-lab-1\nendpoint_url = https://s3.lab.example\n"
        "s3 =\n  max_concurrent_requests = 20\n# a comment\n[profile inline]\n"
        f"aws_access_key_id = INLINE\naws_secret_access_key = {SECRET}\n[profile sso]\nsso_session = org\n"
        "[profile role]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = lab\n"
        "[profile process]\ncredential_process = /bin/echo\n[profile empty]\nregion = x\n[DEFAULT]\nregion = odd\n",
    )
    return home


def key(access):
    return access.current()["access_key_id"]


def test_variables_win_over_files(home):
    access = home.access(**VARIABLES, AWS_SESSION_TOKEN="TOKEN", AWS_PROFILE="lab")
    assert access.current() == {
        "access_key_id": "VARIABLE",
        "secret_access_key": SECRET,
        "token": "TOKEN",
        "expires_at": None,
    }
    assert access.keys == "the key in AWS_ACCESS_KEY_ID"


def test_a_profile_that_envkit_was_told_wins_over_variables(home):
    access = home.access("lab", **VARIABLES, AWS_SESSION_TOKEN="TOKEN")
    assert key(access) == "LAB"
    assert access.current()["token"] == "LABTOKEN"
    assert access.keys == f"the key of the profile lab in {home.path}/.aws/credentials"
    assert (access.region, access.endpoint) == ("eu-lab-1", "https://s3.lab.example")


def test_without_anything_it_is_the_default_profile(home):
    access = home.access()
    assert (key(access), access.region, access.endpoint) == ("DEFAULT", "eu-north-1", "")
    assert key(home.access(AWS_PROFILE="lab")) == "LAB"
    assert key(home.access("inline")) == "INLINE"


def test_settings_win_over_variables_and_those_over_the_profile(home):
    settings = StoreSettings(endpoint="https://mine", region="mine-1", profile="lab", caller=home.caller)
    access = find_access(settings, {"AWS_REGION": "v", "AWS_ENDPOINT_URL": "https://v"})
    assert (access.endpoint, access.region) == ("https://mine", "mine-1")
    access = home.access(
        "lab", AWS_DEFAULT_REGION="v", AWS_ENDPOINT_URL="https://v", AWS_ENDPOINT_URL_S3="https://s3.v"
    )
    assert (access.endpoint, access.region) == ("https://s3.v", "v")


def test_where_there_is_nothing_obstore_looks_itself(tmp_path):
    (tmp_path / ".aws").mkdir()
    caller = Caller(uid=os.getuid(), gid=os.getgid(), name="", home=str(tmp_path))
    for settings in (StoreSettings(), StoreSettings(caller=caller)):
        access = find_access(settings, {})
        assert (access.credential, access.region, access.endpoint) == (None, "us-east-1", "")


def test_files_may_be_elsewhere(home, tmp_path):
    file = tmp_path / "elsewhere"
    file.write_text(f"[default]\naws_access_key_id=ELSEWHERE\naws_secret_access_key={SECRET}\n")
    assert key(home.access(AWS_SHARED_CREDENTIALS_FILE=str(file))) == "ELSEWHERE"
    assert key(home.access(AWS_SHARED_CREDENTIALS_FILE="~/elsewhere")) == "ELSEWHERE"
    assert home.access(AWS_CONFIG_FILE="/nonexistent").region == "us-east-1"


def test_a_profile_that_is_not_there_is_told(home):
    for access in (lambda: home.access("nosuch"), lambda: home.access(AWS_PROFILE="nosuch")):
        with pytest.raises(UnusableCredentials, match="there is no profile 'nosuch' of AWS") as caught:
            access()
        assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize("half", [{"AWS_ACCESS_KEY_ID": "X"}, {"AWS_SECRET_ACCESS_KEY": SECRET}])
def test_half_a_key_is_told(home, half):
    with pytest.raises(UnusableCredentials, match="the variables of AWS have half a key"):
        home.access(**half)
    home.write("credentials", "[lab]\naws_access_key_id = LAB\n")
    with pytest.raises(UnusableCredentials, match=r"the profile lab in .*/.aws/credentials has half a key"):
        home.access("lab")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"[default]\naws_secret_access_key {SECRET}\n", 2),
        (f"aws_secret_access_key = {SECRET}\n", 1),
        (f"[default]\nregion = x\n[default]\naws_secret_access_key = {SECRET}\n", 3),
        (f"[default]\naws_secret_access_key = {SECRET}\naws_secret_access_key = {SECRET}\n", 3),
        (f"[default\naws_secret_access_key = {SECRET}\n", 1),
    ],
)
def test_a_damaged_file_is_told_by_line_without_what_is_there(home, text, line):
    path = home.write("credentials", text)
    with pytest.raises(UnusableCredentials) as caught:
        home.access()
    assert caught.value.brief == f"cannot read {path}: line {line} is not as it should be"
    assert SECRET not in f"{caught.value.details} {caught.value.resolution}"
    assert caught.value.__suppress_context__


def test_a_file_that_is_no_text_is_told(home):
    path = home.path / ".aws/credentials"
    path.write_bytes(b"[default]\naws_secret_access_key = \xff\xfe\n")
    with pytest.raises(UnusableCredentials, match="it is no text in UTF-8"):
        home.access()


def _writable(path):
    path.chmod(0o666)


def _of_another(path):
    os.chown(path, 12_345, 12_345)


def _fifo(path):
    path.unlink()
    os.mkfifo(path)


def _huge(path):
    os.truncate(path, 1 << 30)


@pytest.mark.parametrize("spoil", [_writable, pytest.param(_of_another, marks=pytest.mark.root), _fifo, _huge])
def test_a_file_that_others_could_have_written_is_not_used(home, spoil):
    path = home.path / ".aws/credentials"
    spoil(path)
    with pytest.raises(InvalidInput, match=r"cannot use .*credentials"):
        home.access()


def test_a_key_with_characters_that_no_key_has_is_refused(home):
    with pytest.raises(UnusableCredentials, match="has characters that no key has"):
        home.access(AWS_ACCESS_KEY_ID="X", AWS_SECRET_ACCESS_KEY=f"{SECRET}\n")


@pytest.mark.parametrize(("profile", "needs"), [("sso", "sso_session"), ("role", "role_arn"), ("process", "credential_process")])  # fmt: skip
def test_what_needs_more_than_keys_needs_boto3(home, profile, needs, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(UnusableCredentials) as caught:
        home.access(profile)
    assert f"needs {needs}, and for that boto3, which is not installed" in caught.value.brief
    assert "export-credentials" in caught.value.resolution


@pytest.mark.root
def test_such_a_profile_of_somebody_else_is_not_used_as_root(home):
    """It could name a program, which would run as root."""
    caller = home.caller.replace(uid=12_345, gid=12_345)
    os.chown(home.path / ".aws/config", 12_345, 12_345)
    os.chown(home.path / ".aws/credentials", 12_345, 12_345)
    home.path.chmod(0o755)
    for parent in home.path.parents[:2]:
        parent.chmod(0o755)
    with pytest.raises(UnusableCredentials, match="which envkit does not do for somebody else"):
        find_access(StoreSettings(profile="process", caller=caller), {})


def test_boto3_is_asked_where_it_is_installed(home, monkeypatch):
    asked = []

    class Provider:
        def __init__(self, session):
            asked.append(session)

        def __call__(self):
            return {"access_key_id": "BOTO", "secret_access_key": SECRET, "token": None, "expires_at": None}

    for name, module in {
        "boto3": types.ModuleType("boto3"),
        "boto3.session": types.SimpleNamespace(Session=lambda profile_name: profile_name),
        "obstore.auth.boto3": types.SimpleNamespace(Boto3CredentialProvider=Provider),
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    assert key(home.access("sso")) == "BOTO"
    assert asked == ["sso"]

    def failing(self):
        raise RuntimeError(f"token {SECRET} is old")

    monkeypatch.setattr(Provider, "__call__", failing)
    with pytest.raises(UnusableCredentials, match=r"gives no keys \(RuntimeError\)") as caught:
        home.access("sso")
    assert SECRET not in f"{caught.value} {caught.value.resolution}"


def test_a_profile_without_keys_is_told(home):
    with pytest.raises(UnusableCredentials, match=r"the profile empty in .*config has no keys"):
        home.access("empty")


def test_no_repr_shows_a_key(home):
    assert SECRET not in repr(home.access())
