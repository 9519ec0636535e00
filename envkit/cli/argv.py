"""Owns reading plain command lines without click, of `envkit run` and of what queues call; the rest is left to click.

"Plain" means: known options, each with its value, then `--` or the command. Both readers give the same values; a test
compares them on generated command lines.
"""

from collections.abc import Sequence

from envkit.cli.options import GLOBAL, JOB, Option

Values = dict[str, object]


def read_run(argv: Sequence[str]) -> tuple[dict[str, str | None], Values, tuple[str, ...]] | None:
    """Return (global values, job values, command) of a plain `run` command line; None where click must look."""
    top = _read_options(argv, GLOBAL)
    if top is None:
        return None
    settings, rest = top
    if not rest or rest[0] != "run":
        return None
    below = _read_options(rest[1:], JOB)
    if below is None:
        return None
    values, command = below
    if command and command[0] == "--":
        command = command[1:]
    if not command or values["environment"] is None:
        return None
    return _texts(settings), values, tuple(command)


def read_called(argv: Sequence[str]) -> tuple[dict[str, str | None], str, tuple[str, ...]] | None:
    """Return (global values, name, words) of a command that queues call, as batch scripts and Slurm's epilog write it.

    Of `task` the words are owner, token and digest, of `sweep` the number of a job. None where click must look.
    """
    top = _read_options(argv, GLOBAL)
    if top is None:
        return None
    settings, rest = top
    for before, count in (("task",), 3), (("sweep", "--job"), 1):
        words = tuple(rest[len(before) :])
        if tuple(rest[: len(before)]) == before and len(words) == count:
            plain = not any(word.startswith("-") for word in words) and (count > 1 or _is_number(words[0]))
            return (_texts(settings), before[0], words) if plain else None
    return None


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 20


def _texts(settings: Values) -> dict[str, str | None]:
    return {key: None if value is None else str(value) for key, value in settings.items()}


def _read_options(argv: Sequence[str], options: Sequence[Option]) -> tuple[Values, list[str]] | None:
    """Read options up to the first other word (kept); None where one is not plain."""
    by_flag = {flag: option for option in options for flag in option.flags}
    values: Values = {option.key: _initial(option) for option in options}
    words = list(argv)
    while words and words[0].startswith("-") and words[0] != "--":
        word = words.pop(0)
        flag, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = by_flag.get(flag)
        if option is None or (option.metavar is None and equals):
            return None
        if option.metavar is None:
            values[option.key] = True
            continue
        if not equals:
            if not words:
                return None
            value = words.pop(0)
        if value.startswith("-"):  # most likely a forgotten value; click says so
            return None
        collected = values[option.key]
        if isinstance(collected, list):
            collected.append(value)
        else:
            values[option.key] = value
    return values, words


def _initial(option: Option) -> object:
    """Return the value of an option that is not given."""
    if option.multiple:
        return []
    return False if option.metavar is None else None
