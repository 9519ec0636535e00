"""Owns templates: words of a command with `{name}` in them, which tasks fill with their own values.

`{{` and `}}` are literal braces. A value stays within its word, whatever it holds: nothing splits it, no shell sees it.
"""

import re
from collections.abc import Collection, Mapping, Sequence

from envkit.errors import InvalidInput

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def parse_template(words: Sequence[str], names: Collection[str]) -> None:
    """Check that words use all of these parameters, and no others.

    :raises InvalidInput: one is unknown or unused, or a brace stands alone.
    """
    known = ", ".join(names) or "none"
    used: set[str] = set()
    for word in words:
        for match in _PIECE.finditer(word):
            name = match[1]
            if name is not None and name not in names:
                raise InvalidInput(
                    f"{word!r:.80} has a parameter {name!r:.40} that is not given",
                    resolution=f"those given are: {known}; for braces themselves write {{{{ and }}}}",
                )
            if name is None and len(match[0]) == 1:
                raise InvalidInput(
                    f"{word!r:.80} has a single brace",
                    resolution="a parameter is {name}; for braces themselves write {{ and }}",
                )
            if name is not None:
                used.add(name)
    unused = [name for name in names if name not in used]
    if unused:
        raise InvalidInput(
            f"the command does not use the parameter {unused[0]!r:.40}",
            resolution=f"write {{{unused[0]:.40}}} where its value belongs, or leave it out",
        )


def filled(words: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return words with values in them.

    :raises InvalidInput: as `parse_template` does.
    """
    parse_template(words, values)

    def value(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else values[match[1]]

    return tuple(_PIECE.sub(value, word) for word in words)
