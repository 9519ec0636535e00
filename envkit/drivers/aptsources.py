"""Owns which Debian archives this machine uses, so that bases are built from, and point to, the same mirrors.

Reads both of APT's formats below /etc/apt; `hostapt` has the settings of how archives are reached.
"""

import os
import re
from collections.abc import Iterable, Iterator

from envkit.drivers.files import read_text
from envkit.drivers.urls import is_loopback, is_plain, is_web, without_credentials
from envkit.model.record import Record

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
"""Debian's archive keys, on a Debian host and in every Debian root (APT depends on the package)."""

_ROLLING = ("sid", "unstable")
_ALIASES = ("oldoldstable", "oldstable", "stable", "testing")
_CODENAMES = ("buster", "bullseye", "bookworm", "trixie", "forky", "duke")
_RELEASES = frozenset((*_ROLLING, *_ALIASES, *_CODENAMES))
_COMPONENTS = ("main", "contrib", "non-free", "non-free-firmware")
_ROLES = ("", "-updates", "-security")
_DEFAULT_ARCHIVE = "http://deb.debian.org/debian"
_DEFAULT_SECURITY = "http://deb.debian.org/debian-security"
_ONE_LINE = re.compile(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(\S.*)")
_MAX_BYTES = 1024 * 1024


class Source(Record):
    """One archive as APT's configuration names it; `signed_by` is a key file, an embedded key, or empty."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


def parse_one_line(text: str) -> list[Source]:
    """Return the binary archives in a file of the format of sources.list."""
    found = []
    for line in text.splitlines():
        match = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if match is None:
            continue
        options = dict(word.lower().partition("=")[::2] for word in (match[1] or "").split())
        found.append(
            Source(
                uri=match[2],
                suite=match[3],
                components=tuple(match[4].split()),
                signed_by=options.get("signed-by", ""),
                trusted=options.get("trusted") == "yes",
            )
        )
    return found


def parse_deb822(text: str) -> list[Source]:
    """Return the binary archives in a file of the format of debian.sources."""
    found = []
    for fields in _stanzas(text):
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                found.append(
                    Source(
                        uri=uri,
                        suite=suite,
                        components=tuple(fields.get("components", "").split()),
                        signed_by=fields.get("signed-by", "").strip(),
                        trusted=fields.get("trusted", "").lower() == "yes",
                    )
                )
    return found


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Yield the fields of each paragraph, names in lower case; an indented line continues the one before it."""
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0] in " \t":
            if name:
                fields[name] += "\n" + line.strip()
        elif line[0] != "#":
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()


def read_host(*, root: str = "") -> list[Source]:
    """Return the archives that the host's APT uses, in the order in which it reads them; none where it has no APT."""
    directory = f"{root}/etc/apt/sources.list.d"
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        names = []
    found = parse_one_line(read_text(f"{root}/etc/apt/sources.list", _MAX_BYTES))
    for name in names:
        if name.endswith(".list"):
            found += parse_one_line(read_text(f"{directory}/{name}", _MAX_BYTES))
        elif name.endswith(".sources"):
            found += parse_deb822(read_text(f"{directory}/{name}", _MAX_BYTES))
    return found


def debian_sources(host: Iterable[Source], codename: str, *, root: str = "") -> tuple[Source, ...]:
    """Return the archives for a Debian release: main archive, updates and security as far as the host has them.

    The release may be another than the host's. A host without a Debian archive that a container could use gets
    Debian's own.
    """
    chosen: dict[tuple[str, str], Source] = {}
    rolling = False
    for source in host:
        name, role = _release_and_role(source.suite)
        if name not in _RELEASES or not is_plain(source.uri) or not is_web(source.uri) or is_loopback(source.uri):
            continue
        components = tuple(c for c in _COMPONENTS if c in source.components)
        if "main" not in components or not _is_debian(source, root):
            continue
        rolling = rolling or name in _ROLLING
        uri = source.uri.rstrip("/")
        chosen.setdefault((role, uri), source.replace(uri=uri, suite=codename + role, components=components))
    archives = [source for (role, _), source in chosen.items() if role == ""]
    if not archives:
        return tuple(_default(codename, role) for role in _ROLES)
    if rolling and {role for role, _ in chosen} == {""}:
        # A host that follows unstable has no use for updates and security; a base of a release has.
        chosen["-updates", archives[0].uri] = archives[0].replace(suite=f"{codename}-updates")
        chosen["-security", _DEFAULT_SECURITY] = _default(codename, "-security")
    return tuple(source for role in _ROLES for (its_role, _), source in chosen.items() if its_role == role)


def one_line(sources: Iterable[Source]) -> str:
    """Return the archives as lines of a sources.list, to be used by the host's APT."""
    return "".join(
        f"deb [signed-by={KEYRING}{' trusted=yes' if source.trusted else ''}]"
        f" {source.uri} {source.suite} {' '.join(source.components)}\n"
        for source in sources
    )


def deb822(sources: Iterable[Source]) -> str:
    """Return the archives as a debian.sources, to be stored in a root: without names and passwords in URLs."""
    return "\n".join(_stanza(source) for source in sources)


def _stanza(source: Source) -> str:
    lines = [
        "Types: deb",
        f"URIs: {without_credentials(source.uri)}",
        f"Suites: {source.suite}",
        f"Components: {' '.join(source.components)}",
        f"Signed-By: {KEYRING}",
    ]
    return "\n".join([*lines, *(["Trusted: yes"] if source.trusted else []), ""])


def _default(codename: str, role: str) -> Source:
    uri = _DEFAULT_SECURITY if role == "-security" else _DEFAULT_ARCHIVE
    return Source(uri=uri, suite=codename + role, components=("main",))


def _release_and_role(suite: str) -> tuple[str, str]:
    """Split a suite as in `bookworm-updates`; until Debian 10 security was `buster/updates`. Others stay whole."""
    for role in _ROLES[1:]:
        if suite.endswith(role):
            return suite.removesuffix(role), role
    if suite.endswith("/updates"):
        return suite.removesuffix("/updates"), "-security"
    return suite, ""


def _is_debian(source: Source, root: str) -> bool:
    """Tell whether an archive with a Debian suite's name is Debian's: others use `stable` and `bookworm` too."""
    if source.signed_by:
        return "debian-archive" in source.signed_by
    origin = _origin(source, root)
    if origin is not None:
        return origin == "Debian"
    return any(part.startswith("debian") for part in source.uri.split("/")[3:])


def _origin(source: Source, root: str) -> str | None:
    """Return the origin in the Release file that the host's APT fetched last, or None where it did not yet."""
    address = without_credentials(source.uri).partition("://")[2].rstrip("/")
    name = f"{address}/dists/{source.suite}".replace("_", "%5f").replace("/", "_")
    for kind in ("InRelease", "Release"):
        match = re.search(
            r"^Origin: *(.*?) *$", read_text(f"{root}/var/lib/apt/lists/{name}_{kind}", _MAX_BYTES), re.MULTILINE
        )
        if match is not None:
            return match[1]
    return None
