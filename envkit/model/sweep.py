"""Owns the parameters of `map`: lists of values become a row of values for each task."""

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence

from envkit.errors import InvalidInput
from envkit.model.jobid import MAX_TASKS
from envkit.model.order import TASK_NUMBER

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RULE = "use -d NAME=VALUE,VALUE,... or -d NAME=@FILE"


def parse_lists(texts: Sequence[str], read: Callable[[str], bytes]) -> dict[str, tuple[str, ...]]:
    """Read `name=v1,v2,...` and `name=@file`, of which each line is a value; empty lines are none.

    :param read: returns what a file holds.
    :raises InvalidInput: one has not that form, no value, or a name that another one has.
    """
    found: dict[str, tuple[str, ...]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        if not equals or not _NAME.fullmatch(name) or name == TASK_NUMBER:
            raise InvalidInput(f"-d {text!r:.80} is no list of values", resolution=_RULE)
        if name in found:
            raise InvalidInput(f"the parameter {name!r} is given twice", resolution="give all its values in one -d")
        values = _lines(listed[1:], read) if listed.startswith("@") else tuple(listed.split(",")) if listed else ()
        if not values:
            raise InvalidInput(f"the parameter {name!r} has no values", resolution=_RULE)
        found[name] = values
    return found


def _lines(path: str, read: Callable[[str], bytes]) -> tuple[str, ...]:
    try:
        text = read(path).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is no text in UTF-8") from error
    if "\0" in text:
        raise InvalidInput(f"{path} is no text: it holds zero bytes")
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return tuple(line for line in lines if line)


def rows_of(lists: Mapping[str, Sequence[str]], *, product: bool) -> tuple[tuple[str, ...], ...]:
    """Return a row of values for each task: lists go together value by value, a single value with all of them.

    :param product: combine every value with every other instead.
    :raises InvalidInput: lists differ in length, or there are more than 100,000 rows.
    """
    lengths = {name: len(values) for name, values in lists.items()}
    count = math.prod(lengths.values()) if product else max(lengths.values())
    if count > MAX_TASKS:
        raise InvalidInput(
            f"these are {count:,} tasks, and a job has {MAX_TASKS:,} at most", resolution="submit several"
        )
    if product:
        return tuple(itertools.product(*lists.values()))
    longest = next(name for name in lists if lengths[name] == count)
    for name, length in lengths.items():
        if length not in (1, count):
            raise InvalidInput(
                f"{name!r} has {length} values, and {longest!r} has {count}",
                resolution="give lists of the same length, one value for all, or --product for every combination",
            )
    columns = [values if len(values) == count else tuple(values) * count for values in lists.values()]
    return tuple(zip(*columns, strict=True))
