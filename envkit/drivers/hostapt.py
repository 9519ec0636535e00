"""Owns what is borrowed of the host's APT configuration: how to reach archives (`Acquire`), and nothing else.

Which archives there are is `aptsources`'.
"""

import re
from collections.abc import Iterable, Mapping

from envkit.drivers.process import find_program, run
from envkit.drivers.urls import is_loopback, is_plain

_LINE = re.compile(r'([A-Za-z0-9_.:/+-]+) "(.*)";')
_HOST = r"(?:::[a-z0-9.-]+)?"
# Not Proxy-Auto-Detect (a program of the host), client certificates (private keys) or anything that installs.
_ALLOWED = re.compile(
    rf"acquire::https?::(?:proxy{_HOST}|timeout|pipeline-depth|no-cache|no-store|max-age|dl-limit|allowredirect)"
    rf"|acquire::https{_HOST}::verify-(?:peer|host)"
    r"|acquire::(?:check-valid-until|check-date|(?:max|min)-validtime|max-futuretime)"
    r"|acquire::(?:retries|forceipv4|forceipv6|queue-mode|by-hash)",
    re.IGNORECASE,
)


def dump(environ: Mapping[str, str]) -> str:
    """Return what `apt-config dump` prints; empty where the host has no APT, or one that is set up wrongly."""
    if find_program("apt-config") is None:
        return ""
    own = {"APT_CONFIG": environ["APT_CONFIG"]} if "APT_CONFIG" in environ else {}
    return run(["apt-config", "dump"], env=own, timeout=30, check=False).stdout.decode("utf-8", "replace")


def acquire_settings(dump: str, *, loopback: bool = False) -> tuple[tuple[str, str], ...]:
    """Return the settings in a dump that mean the same inside a container, as pairs of key and value.

    :param loopback: keep proxies on the host's loopback, which containers cannot reach.
    """
    found: dict[str, str] = {}
    for line in dump.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or not _ALLOWED.fullmatch(match[1]) or not is_plain(match[2]):
            continue
        if "proxy" in match[1].lower() and not loopback and is_loopback(match[2]):
            continue
        found[match[1]] = match[2]
    return tuple(found.items())


def ca_file(dump: str) -> str | None:
    """Return the file of certificate authorities that the host's APT uses for https, or None for the usual one."""
    for line in dump.splitlines():
        match = _LINE.fullmatch(line)
        if match is not None and match[1].lower() == "acquire::https::cainfo" and match[2].startswith("/"):
            return match[2]
    return None


def render(settings: Iterable[tuple[str, str]], *, ca: str | None = None) -> bytes | None:
    """Return an APT configuration file with these settings and this file of authorities; None if there are none."""
    rows = [*settings, *([("Acquire::https::CaInfo", ca)] if ca is not None else [])]
    return "".join(f'{key} "{value}";\n' for key, value in rows).encode() or None
