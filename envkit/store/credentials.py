"""Owns whose keys open a store in S3, and where its server is: the variables and files that every tool of AWS reads.

First the profile that envkit's own settings name, then the variables, then the profile of AWS_PROFILE or `default`;
what none of them says is left to obstore: the role of a pod or machine. A key is in no message and in no repr.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from envkit.drivers.caller import Caller, process_user, read_settings
from envkit.model.record import Record
from envkit.store.errors import UnusableCredentials
from envkit.store.settings import StoreSettings

if TYPE_CHECKING:
    from obstore.store import S3Credential

_MAX_BYTES = 1 << 20
_DEFAULT_REGION = "us-east-1"
_ELSEWHERE = "`aws configure export-credentials --format env` prints keys as variables; with sudo use `sudo -E envkit`"
_BEYOND_KEYS = ("role_arn", "sso_session", "sso_start_url", "sso_account_id", "credential_process", "login_session")

Provider = Callable[[], "S3Credential"]
Section = Mapping[str, str]


class Access(Record):
    """How to reach S3: `endpoint` is "" for Amazon's own, `credential` None where obstore finds keys itself.

    `keys` names where the keys come from, for messages.
    """

    endpoint: str
    region: str
    keys: str
    credential: "S3Credential | Provider | None"

    def current(self) -> "S3Credential | None":
        """Return the credential as it is now."""
        return self.credential() if callable(self.credential) else self.credential

    def __repr__(self) -> str:
        return f"Access({self.keys})"


class _Profile(Record):
    """What the files say of one profile; `described` names it and its file."""

    section: Section
    described: str

    def __repr__(self) -> str:
        return f"_Profile({self.described})"


def find_access(settings: StoreSettings, environment: Mapping[str, str]) -> Access:
    """Return how to reach S3.

    :raises UnusableCredentials: a file cannot be read, or a profile does not exist or needs more than envkit can do.
    """
    asked = settings.profile or environment.get("AWS_PROFILE", "")
    profile = _profile(asked, settings, environment)
    keys, credential = _keys(settings, environment, profile)
    region = settings.region or environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
    endpoint = settings.endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    return Access(
        endpoint=endpoint or profile.section.get("endpoint_url", ""),
        region=region or profile.section.get("region", "") or _DEFAULT_REGION,
        keys=keys,
        credential=credential,
    )


def _keys(
    settings: StoreSettings, environment: Mapping[str, str], profile: _Profile
) -> tuple[str, "S3Credential | Provider | None"]:
    variables = {
        "aws_access_key_id": environment.get("AWS_ACCESS_KEY_ID", ""),
        "aws_secret_access_key": environment.get("AWS_SECRET_ACCESS_KEY", ""),
        "aws_session_token": environment.get("AWS_SESSION_TOKEN", ""),
    }
    if not settings.profile and (variables["aws_access_key_id"] or variables["aws_secret_access_key"]):
        return "the key in AWS_ACCESS_KEY_ID", _static(variables, "the variables of AWS have half a key")
    if profile.section.get("aws_access_key_id") or profile.section.get("aws_secret_access_key"):
        return f"the key of {profile.described}", _static(profile.section, f"{profile.described} has half a key")
    beyond = next((name for name in _BEYOND_KEYS if name in profile.section), None)
    if beyond is not None:
        return f"the key of {profile.described}", _through_boto3(settings, environment, profile, beyond)
    if settings.profile:
        raise UnusableCredentials(f"{profile.described} has no keys", resolution="`aws configure` writes some")
    return "the key that this machine has", None


def _static(section: Section, incomplete: str) -> "S3Credential":
    key, secret = section.get("aws_access_key_id", ""), section.get("aws_secret_access_key", "")
    token = section.get("aws_session_token") or None
    if not key or not secret:
        raise UnusableCredentials(incomplete, resolution="give both, an access key id and a secret access key")
    for value in (key, secret, token or ""):
        if not value.isascii() or not value.isprintable():
            raise UnusableCredentials("a key for the store has characters that no key has", resolution="copy it again")
    return {"access_key_id": key, "secret_access_key": secret, "token": token, "expires_at": None}


def _through_boto3(settings: StoreSettings, environment: Mapping[str, str], profile: _Profile, beyond: str) -> Provider:
    if settings.caller is not None and os.geteuid() == 0 and settings.caller.uid != 0:
        # Such a profile can name a program to run, and its tokens are in files that only its owner should open.
        raise UnusableCredentials(
            f"{profile.described} needs {beyond}, which envkit does not do for somebody else", resolution=_ELSEWHERE
        )
    try:
        from boto3.session import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        raise UnusableCredentials(
            f"{profile.described} needs {beyond}, and for that boto3, which is not installed", resolution=_ELSEWHERE
        ) from None
    name = settings.profile or environment.get("AWS_PROFILE", "") or "default"
    try:
        provider: Provider = Boto3CredentialProvider(Session(profile_name=name))
        provider()
    except Exception as error:  # noqa: BLE001  # botocore's errors have no common base; their texts may hold tokens
        raise UnusableCredentials(
            f"{profile.described} gives no keys ({type(error).__name__})", resolution="log in again: `aws sso login`"
        ) from None
    return provider


def _profile(asked: str, settings: StoreSettings, environment: Mapping[str, str]) -> _Profile:
    """Return what the two files together say of a profile; the file of keys wins."""
    home = settings.caller.home if settings.caller is not None else ""
    name = asked or "default"
    merged: dict[str, str] = {}
    described = f"the profile {name}"
    for variable, below, section in (
        ("AWS_CONFIG_FILE", "config", name if name == "default" else f"profile {name}"),
        ("AWS_SHARED_CREDENTIALS_FILE", "credentials", name),
    ):
        path = _path(environment.get(variable) or f"~/.aws/{below}", home)
        found = _sections(path, settings.caller).get(section) if path else None
        if found is not None:
            merged |= found
            described = f"the profile {name} in {path}"
    if asked and not merged:
        raise UnusableCredentials(
            f"there is no profile {asked!r:.80} of AWS in {home or 'the home directory'}/.aws",
            resolution="`aws configure list-profiles` shows those that there are",
        )
    return _Profile(section=merged, described=described)


def _path(path: str, home: str) -> str:
    if not path.startswith("~/"):
        return path
    return home + path[1:] if home else ""


def _sections(path: str, caller: Caller | None) -> dict[str, dict[str, str]]:
    """Read a file of AWS; empty where there is none.

    :raises UnusableCredentials: it cannot be parsed; says in which line, and nothing of what is there.
    :raises InvalidInput: it is not safe to use.
    """
    data = read_settings(path, caller or process_user(), limit=_MAX_BYTES)
    if data is None:
        return {}
    from configparser import Error, RawConfigParser  # most jobs have their keys in variables, or from the machine

    # No section has the name of the defaults, which AWS does not know: a "DEFAULT" is one like any other.
    parser = RawConfigParser(default_section="", comment_prefixes=("#", ";"))
    try:
        parser.read_string(data.decode())
    except UnicodeDecodeError:
        raise UnusableCredentials(f"cannot read {path}: it is no text in UTF-8", resolution="write it again") from None
    except Error as error:
        # Without what the parser said: it repeats the line.
        raise UnusableCredentials(
            f"cannot read {path}: line {_line(error)} is not as it should be",
            resolution="write it as `key = value` below a line with [profile]",
        ) from None
    return {section: dict(parser[section]) for section in parser.sections()}


def _line(error: Exception) -> object:
    lines = getattr(error, "errors", None)
    return lines[0][0] if lines else getattr(error, "lineno", "?")
