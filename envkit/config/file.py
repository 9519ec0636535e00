"""Owns reading a settings file: TOML becomes `Settings`. Errors name file, table and key, and never show a value."""

import re

from envkit.config.plain import plain_document
from envkit.config.settings import (
    DEFAULT_PROFILE,
    FILE_KEYS,
    MACHINE_KEYS,
    PROFILE_KEYS,
    PROFILES,
    SECRETS_ELSEWHERE,
    Settings,
    check_value,
    is_profile,
)
from envkit.errors import InvalidInput

_SECRET = re.compile(r"secret|passw|passphrase|token|credential|(private|access|api|account|session|shared)_?key|^key$")
_WHERE = re.compile(r"\(at (line \d+, column \d+|end of document)\)\Z")


def parse_settings(data: bytes, path: str) -> Settings:
    """Return what a settings file says.

    :raises InvalidInput: it is no TOML, or has an unknown key, a secret, or a value that cannot be.
    """
    document = _document(data, path)
    tables = document.pop(PROFILES, {})
    if not isinstance(tables, dict):
        raise InvalidInput(
            f"{path}: {PROFILES} must be tables, as in [{PROFILES}.NAME]",
            resolution=f"the profile to use where none is named is set by {DEFAULT_PROFILE}",
        )
    keys = _strings(document, FILE_KEYS, f"{path}: ")
    return Settings(path=path, keys=keys, profiles={name: _profile(name, tables[name], path) for name in tables})


def _document(data: bytes, path: str) -> dict[str, object]:
    plain = plain_document(data)
    if plain is not None:
        return plain
    import tomllib  # late: with what it needs, a quarter of a warm run

    # Neither the parser's message nor the error that it raises is passed on: both may hold what the file says.
    try:
        return tomllib.loads(data.decode())
    except tomllib.TOMLDecodeError as error:
        where = _WHERE.search(str(error))
        raise InvalidInput(f"{path}: not TOML{f', {where[1]}' if where else ''}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidInput(f"{path}: not UTF-8, line {line}") from None
    except (ValueError, RecursionError):
        raise InvalidInput(f"{path}: not TOML that envkit can read") from None


def _profile(name: str, table: object, path: str) -> dict[str, str]:
    header = f"[{PROFILES}.{_shown(name)}]"
    if not is_profile(name):
        raise InvalidInput(f"{path}: {header}: no name for a profile", resolution="use letters, digits and . _ -")
    if not isinstance(table, dict):
        raise InvalidInput(f"{path}: {header} must be a table")
    for key in MACHINE_KEYS:
        if key in table:
            raise InvalidInput(
                f"{path}: {header}: {key} cannot be set in a profile",
                resolution=f"it is one for the whole machine; set {key} above the tables",
            )
    return _strings(table, PROFILE_KEYS, f"{path}: {header}: ")


def _strings(table: dict[str, object], known: tuple[str, ...], where: str) -> dict[str, str]:
    found = {}
    for key, value in table.items():
        if key not in known:
            raise _unknown(key, known, where)
        if not isinstance(value, str):
            raise InvalidInput(f"{where}{key} must be a string")
        found[key] = check_value(key, value, f"{where}{key}")
    return found


def _unknown(key: str, known: tuple[str, ...], where: str) -> InvalidInput:
    if _SECRET.search(key.lower().replace("-", "_")):
        return InvalidInput(f"{where}{_shown(key)}: secrets do not belong in here", resolution=SECRETS_ELSEWHERE)
    return InvalidInput(f"{where}unknown key {key!r:.60}", resolution=f"known keys: {', '.join(known)}")


def _shown(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]{1,60}", name) else f"{name!r:.60}"
