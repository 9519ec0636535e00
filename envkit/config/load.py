"""Owns reading the configuration: defaults, then the files, then ENVKIT_* variables, then flags; the last one wins."""

import os
from collections.abc import Mapping

from envkit.config.model import NETWORKS, Config
from envkit.errors import InvalidInput

SYSTEM_FILE = "/etc/envkit/config.toml"
USER_FILE = "~/.config/envkit/config.toml"

VARIABLES = {
    "ENVKIT_ROOT": "root",
    "ENVKIT_STORE": "store",
    "ENVKIT_OWNER": "owner",
    "ENVKIT_NET": "net",
}
"""Every variable that envkit reads, and the setting that it overrides."""


def load(flags: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> Config:
    """Return the configuration.

    :param flags: settings from the command line; None where a flag was not given.
    :raises InvalidInput: a file cannot be read, or a setting is unknown or has an impossible value; says where.
    """
    environment = os.environ if environment is None else environment
    settings: dict[str, str] = {}
    for path in (SYSTEM_FILE, os.path.expanduser(USER_FILE)):
        settings |= _from_file(path)
    for variable, key in VARIABLES.items():
        if environment.get(variable):
            settings[key] = _checked(key, environment[variable], f"the variable {variable}")
    for key, value in flags.items():
        if value is not None:
            settings[key] = _checked(key, value, f"--{key}")
    loop = environment.get("ENVKIT_LOOP") == "1"  # mount images as kernels before 6.12 do
    return Config(**settings, loop=loop)


def _from_file(path: str) -> dict[str, str]:
    if not os.path.exists(path):
        return {}
    import tomllib  # late: costs a quarter of a warm run, and most machines have no such file

    try:
        with open(path, "rb") as file:
            document = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}") from error
    settings = {}
    for key, value in document.items():
        if key not in VARIABLES.values():
            known = ", ".join(sorted(VARIABLES.values()))
            raise InvalidInput(f"{path}: unknown key {key!r}", resolution=f"known keys: {known}")
        if not isinstance(value, str):
            raise InvalidInput(f"{path}: {key} must be a string")
        settings[key] = _checked(key, value, f"{path}: {key}")
    return settings


def _checked(key: str, value: str, source: str) -> str:
    if key == "net" and value not in NETWORKS:
        raise InvalidInput(f"{source}: {value!r} is no network", resolution=f"use one of {', '.join(NETWORKS)}")
    if key == "root" and not value.startswith("/"):
        raise InvalidInput(f"{source}: {value!r} must be an absolute path")
    return value
