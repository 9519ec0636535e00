"""Owns what a start pack is of: a stack of layers, what was started in it (the entry point), granules of images.

On the path of `envkit run`. The stored form is `content/startpack.py`'s, its place in a store `store/starts.py`'s.
"""

import re
from collections.abc import Iterable, Sequence

from envkit.model.record import Record

GRANULE = 16 << 10
"""Bytes of an image that are recorded and sent together; the last granule of an image may be shorter."""
MAX_ENTRY_POINT = 100

_UNUSUAL = re.compile(r"[^A-Za-z0-9._+-]")
_WORD = re.compile(r"(?:[A-Za-z0-9._+-]*/)*[A-Za-z0-9._+-]+")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[A-Za-z0-9./_:,+-]*")


class ImageLayer(Record):
    """The image of one layer of a stack: the layer's digest, the image's uuid, its size, and where its data begins.

    What lies before `data` is metadata, which every node makes itself; a start pack need not hold it.
    """

    digest: str
    uuid: bytes
    size: int
    data: int = 0


def stack_digest(layers: Iterable[str]) -> str:
    """Return the digest of a stack, from those of its layers, the lowest first."""
    import hashlib

    return hashlib.sha256("\n".join(layers).encode()).hexdigest()


def granule_length(size: int, granule: int) -> int:
    """Return how many bytes a granule of an image of this size has; 0 or less if it lies behind its end."""
    return min(GRANULE, size - granule * GRANULE)


def entry_point(argv: Sequence[str]) -> str:
    """Return what a command line starts, without its arguments: at most 100 characters of `A-Za-z0-9._-+ `.

    That is the name of its program; for an interpreter also that of the script or module. Of options, of code given
    in the command line and of variables nothing is shown: there are secrets in them.
    """
    words = _unwrapped(list(argv))
    program = _name(words[0]) if words else ""
    shown = _started(program, words[1:])
    return " ".join(part for part in (program or "_", *shown) if part)[:MAX_ENTRY_POINT].rstrip()


def _name(path: str) -> str:
    """Return the last component of a path, in the characters that an entry point may have."""
    return _UNUSUAL.sub("_", path.rpartition("/")[2])


def _word(text: str) -> str:
    """Return the last component of a word that is a plain name or path; else nothing of it."""
    return text.rpartition("/")[2] if _WORD.fullmatch(text) else ""


def _unwrapped(words: list[str]) -> list[str]:
    """Leave out programs that only start another one, with what is certainly theirs."""
    while len(words) > 1 and (skip := _WRAPPERS.get(_name(words[0]))) is not None:
        rest = words[1:]
        while rest and skip.match(rest[0]):
            rest = rest[1:]
        if not rest or not _WORD.fullmatch(rest[0]) or rest[0].startswith("-"):
            return words
        words = rest
    return words


_WRAPPERS = {
    "env": re.compile(r"-i$|-$|[A-Za-z_][A-Za-z0-9_]*="),
    "nohup": re.compile(r"$^"),
    "time": re.compile(r"-p$"),
    "nice": re.compile(r"-n?-?[0-9]+$|-n$|[0-9]+$"),
    "timeout": re.compile(r"[0-9.]+[smhd]?$"),
}


class _Interpreter(Record):
    """How an interpreter reads its options.

    `flags` take no value, `attached` the rest of their word, `values` that or the next word. `code` ends the options:
    what follows is a program, whose first word is shown if `commands` says so. `module` is an option whose value is
    shown.
    """

    flags: str
    values: str = ""
    attached: str = ""
    code: str = ""
    module: str = ""
    commands: bool = False


_SHELL = _Interpreter(flags="abefhikmnprtuvxlBCEHPT", values="oO", code="c", commands=True)
_PYTHON = _Interpreter(flags="bBdEhiIOPqsSuvVx", values="WX", code="c", module="m")
_PERL = _Interpreter(flags="acnpsStTuUvVwWXl0123456789", values="I", attached="mMCDiFx", code="eE")
_OTHER = _Interpreter(flags="", code="e")
_INTERPRETERS = (
    (re.compile(r"python[0-9.]*t?|pypy[0-9.]*"), _PYTHON),
    (re.compile(r"(?:ba|da|z|k|a)?sh"), _SHELL),
    (re.compile(r"perl[0-9.]*"), _PERL),
    (re.compile(r"Rscript|julia|ruby[0-9.]*|node|nodejs|lua[0-9.]*"), _OTHER),
)


def _started(program: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return what an interpreter starts, as further words of the entry point."""
    reader = next((reader for pattern, reader in _INTERPRETERS if pattern.fullmatch(program)), None)
    if reader is None:
        return ()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return (_word(rest[0]),) if rest else ()
        if word.startswith("--"):
            if word not in _LONG_FLAGS:
                return ()
        elif len(word) < 2 or word[0] != "-":
            return (_word(word),) if word != "-" else ()
        else:
            ended = _read_options(reader, word[1:], rest)
            if ended is not None:
                return ended
    return ()


_LONG_FLAGS = ("--vanilla", "--no-save", "--no-restore", "--slave", "--login", "--posix", "--norc", "--noprofile")


def _read_options(reader: _Interpreter, options: str, rest: list[str]) -> tuple[str, ...] | None:
    """Read a word of single-letter options; return what is shown if they end there, None to go on behind them."""
    for position, option in enumerate(options):
        tail = options[position + 1 :]
        if option in reader.flags:
            continue
        if option in reader.code:
            # `-c` of a shell may have other flags behind it, as in `-cx`; the code is the next word all the same.
            shown = _first_word(rest[0]) if reader.commands and rest else ""
            return (f"-{option}", shown)
        if reader.module and option in reader.module:
            return (f"-{option}", _word(tail or (rest[0] if rest else "")))
        if option in reader.values and not tail and rest:
            rest.pop(0)
        return None if option in reader.values or option in reader.attached else ()
    return None


def _first_word(code: str) -> str:
    """Return the name of the first command of a shell's code, behind variables that are set for it."""
    for word in code.split():
        if not _ASSIGNMENT.fullmatch(word):
            return _word(word.rstrip(";"))
    return ""
