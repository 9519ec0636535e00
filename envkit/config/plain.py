"""Owns reading the settings files that most machines have: comments, `KEY = "VALUE"`, and tables of profiles.

That is TOML, but its parser is a quarter of a warm run. What is more than plain is left to it, and so is what is wrong.
"""

from envkit.config.settings import PROFILES

_PLAIN = bytes(range(0x20, 0x7F)) + b"\n\t"


def plain_document(data: bytes) -> dict[str, object] | None:
    """Return what `tomllib.loads` would; None where that has to look."""
    if data.translate(None, _PLAIN):
        return None
    document: dict[str, object] = {}
    profiles: dict[str, object] = {}
    table = document
    for line in data.decode("ascii").split("\n"):
        words = line.strip(" \t")
        if not words or words.startswith("#"):
            continue
        if words.startswith("["):
            name = words.removeprefix(f"[{PROFILES}.").removesuffix("]")
            if words != f"[{PROFILES}.{name}]" or not _is_bare(name) or name in profiles:
                return None
            table = profiles[name] = {}
            continue
        key, equals, value = (part.strip(" \t") for part in words.partition("="))
        text = value[1:-1]
        if not equals or not _is_bare(key) or value != f'"{text}"' or '"' in text or "\\" in text or key in table:
            return None
        table[key] = text
    if profiles:
        if PROFILES in document:
            return None
        document[PROFILES] = profiles
    return document


def _is_bare(key: str) -> bool:
    """Tell whether a key needs no quotes."""
    return key.replace("_", "a").replace("-", "a").isalnum()
