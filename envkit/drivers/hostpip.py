"""Owns what a session borrows of its host's pip configuration: how to reach package indexes, and nothing else."""

import re
from collections.abc import Iterable, Mapping

from envkit.drivers.files import read_text
from envkit.drivers.urls import is_loopback, is_plain, is_web

_SYSTEM_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")
_USER_FILES = (".pip/pip.conf", ".config/pip/pip.conf")
_MAX_BYTES = 256 * 1024
_NAMES = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout", "retries")
_ALIASES = {"pypi-url": "index-url", "default-timeout": "timeout"}
_SECTIONS = ("global", "install")  # the later one counts more
_NUMBER = re.compile(r"[0-9]{1,6}(\.[0-9]{1,3})?")


def read_settings(environ: Mapping[str, str], *, home: str, root: str = "") -> dict[str, str]:
    """Return every setting that pip would use on the host, by its option's name; an unreadable file gives none.

    :param root: in front of every path that is read.
    """
    own = environ.get("PIP_CONFIG_FILE", "")
    paths = [] if own == "/dev/null" else [*([own] if own.startswith("/") else []), *_SYSTEM_FILES]
    if not own:
        paths += [f"{home}/{name}" for name in _USER_FILES]
    settings: dict[str, str] = {}
    for path in paths:
        settings |= parse(read_text(root + path, _MAX_BYTES))
    variables = {name[4:]: value for name, value in environ.items() if name.startswith("PIP_") and value}
    return settings | {_normal(name): value for name, value in variables.items()}


def parse(text: str) -> dict[str, str]:
    """Return the settings of a pip.conf that count for `pip install`; none where it is no configuration file."""
    import configparser  # late: 10 ms

    parser = configparser.RawConfigParser(strict=False)
    try:
        parser.read_string(text)
    except configparser.Error:
        return {}
    found: dict[str, str] = {}
    for section in _SECTIONS:
        if parser.has_section(section):
            found |= {_normal(name): value for name, value in parser.items(section) if value}
    return found


def select(settings: Mapping[str, str], *, loopback: bool = False) -> dict[str, tuple[str, ...]]:
    """Return the settings that mean the same inside a container, each with its values.

    Directories, `file:` indexes and, unless `loopback` is on, servers on the host's loopback do not.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for name in _NAMES:
        values = tuple(value for value in settings.get(name, "").split() if _is_usable(name, value, loopback=loopback))
        if values:
            chosen[name] = values if name in ("extra-index-url", "trusted-host") else values[-1:]
    return chosen


def render(chosen: Mapping[str, Iterable[str]], *, cert: str | None = None) -> bytes | None:
    """Return a pip.conf with these settings, and this file of certificate authorities; None if there are none."""
    rows = {name: "\n    ".join(values) for name, values in chosen.items()}
    if cert is not None:
        rows["cert"] = cert
    if not rows:
        return None
    return ("[global]\n" + "".join(f"{name} = {value}\n" for name, value in rows.items())).encode()


def _is_usable(name: str, value: str, *, loopback: bool) -> bool:
    if not is_plain(value):
        return False
    if name in ("timeout", "retries"):
        return _NUMBER.fullmatch(value) is not None
    if name in ("index-url", "extra-index-url") and not is_web(value):
        return False
    return loopback or not is_loopback(value)


def _normal(name: str) -> str:
    name = name.lower().replace("_", "-").removeprefix("--")
    return _ALIASES.get(name, name)
