"""Owns which setting wins: defaults, the system's file, the user's, the profile in each, ENVKIT_* variables, flags."""

import os
from collections.abc import Mapping

from envkit.config.model import Config
from envkit.config.settings import DEFAULT_PROFILE, Settings, check_value
from envkit.drivers.caller import Caller, find_caller, process_user, read_settings
from envkit.errors import NotFound

SYSTEM_FILE = "/etc/envkit/config.toml"
USER_FILE = ".config/envkit/config.toml"
"""Below the home directory of the user who called envkit, also through sudo."""

VARIABLES = {
    "ENVKIT_ROOT": "root",
    "ENVKIT_STORE": "store",
    "ENVKIT_ENDPOINT": "endpoint",
    "ENVKIT_REGION": "region",
    "ENVKIT_AWS_PROFILE": "aws_profile",
    "ENVKIT_OWNER": "owner",
    "ENVKIT_NET": "net",
    "ENVKIT_FETCH": "fetch",
    "ENVKIT_CACHE_QUOTA": "cache_quota",
    "ENVKIT_QUEUE_KIND": "queue",
    "ENVKIT_SLOTS": "slots",
    "ENVKIT_NODE_PROGRAM": "node_program",
}
"""The variables of settings; an empty one says nothing."""
PROFILE_VARIABLE = "ENVKIT_PROFILE"

_MAX_BYTES = 64 * 1024


class UnknownProfile(NotFound):
    """No settings file has a profile that was asked for."""

    def __init__(self, brief: str, known: list[str]) -> None:
        here = f"define it in /etc/envkit/config.toml or ~/{USER_FILE}, as a table [profile.NAME]"
        super().__init__(brief, resolution=f"known profiles: {', '.join(known)}" if known else here)
        self.known = known


def load(flags: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration.

    :param flags: settings from the command line, and `profile`; None where a flag was not given.
    :raises InvalidInput: a file cannot be used, or a setting is unknown or has an impossible value; says where.
    :raises UnknownProfile: no file has the profile.
    """
    environment = os.environ if environment is None else environment
    caller = find_caller(environment)
    files = _files(caller)
    profile = _profile(files, flags.get("profile"), environment.get(PROFILE_VARIABLE))
    settings: dict[str, str] = {}
    for file in files:
        settings |= {key: value for key, value in file.keys.items() if key != DEFAULT_PROFILE}
    for file in files:
        settings |= file.profiles.get(profile, {})
    for variable, key in VARIABLES.items():
        if environment.get(variable):
            settings[key] = check_value(key, environment[variable], f"the variable {variable}")
    for key, value in flags.items():
        if value is not None and key != "profile":
            settings[key] = check_value(key, value, f"--{key.replace('_', '-')}")
    loop = environment.get("ENVKIT_LOOP") == "1"  # mount images as kernels before 6.12 do
    return Config(**settings, profile=profile, home=caller.home, loop=loop)


def _files(caller: Caller) -> list[Settings]:
    """Return what the files say that are there, the system's first."""
    places = [(SYSTEM_FILE, process_user())]
    if caller.home:
        places.append((os.path.join(caller.home, USER_FILE), caller))
    files = []
    for path, reader in places:
        data = read_settings(path, reader, limit=_MAX_BYTES)
        if data is not None:
            from envkit.config.file import parse_settings

            files.append(parse_settings(data, path))
    return files


def _profile(files: list[Settings], flag: str | None, variable: str | None) -> str:
    """Return the name of the profile to use, "" for none."""
    known = sorted({name for file in files for name in file.profiles})
    for name, asked in ((flag, "--profile"), (variable or None, f"the variable {PROFILE_VARIABLE}")):
        if name is not None:
            if name and name not in known:
                raise UnknownProfile(f"{asked}: there is no profile {name!r:.60}", known)
            return name
    for file in reversed(files):
        if (chosen := file.keys.get(DEFAULT_PROFILE)) is not None:
            if chosen and chosen not in known:
                raise UnknownProfile(f"{file.path}: there is no such profile as {DEFAULT_PROFILE} says", known)
            return chosen
    return ""
