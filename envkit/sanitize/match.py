"""Owns globs over absolute paths: their syntax, and one automaton that matches all of them in one walk.

A path is a row of components, as bytes; nothing is assumed about their encoding. In a glob `*` is any text within a
component, `?` one byte, `**` any number of components, `{a,b}` either, and a backslash takes the special meaning from
the next byte. It begins with `/`, with `~/` (every home) or with `**/`. A glob that matches a directory matches all
that is below.

Every directory has a `State`; the state of what it holds follows from the name alone. States are shared, and there
are few: nearly all of a tree is in the one in which nothing has begun to match, so a walk costs two look-ups a path.
"""

import enum
import re
from collections.abc import Iterable
from itertools import pairwise

from envkit.errors import InvalidInput

MAX_ALTERNATIVES = 1000


class Span(enum.Enum):
    """A step that takes any name."""

    DEEP = "any number of components"
    REST = "one component, at the end"


# One wildcard, an escaped byte, or text without either.
_PIECE = re.compile(rb"[*?]|\\?(.[^*?\\]*)", re.DOTALL)

Step = bytes | re.Pattern[bytes] | Span


class State:
    """What has matched on the way to a path; equal states are the same object.

    `tags` are the numbers of the globs that match the path or a directory above it, `content` of those that match
    all that is directly below.
    """

    __slots__ = (
        *("_after", "_any_form", "_default", "_end_form", "_forms", "_home", "_lasting", "_literals", "_pending"),
        *("content", "tags"),
    )

    def __init__(self, pending: frozenset[int], tags: frozenset[int]) -> None:
        self.tags = tags
        self.content: frozenset[int] = frozenset()
        self._pending = pending
        self._lasting: tuple[int, ...] = ()
        self._literals: dict[bytes, tuple[int, ...]] = {}
        self._forms: tuple[tuple[re.Pattern[bytes], int], ...] = ()
        self._any_form: re.Pattern[bytes] | None = None
        self._end_form: re.Pattern[bytes] | None = None
        self._default: State | None = None
        self._home: State | None = None
        self._after: dict[tuple[int, ...], State] = {}


class Matcher:
    """All globs in one automaton; a glob's number is its place in the row given here.

    :raises InvalidInput: a glob breaks the syntax.
    """

    def __init__(self, globs: Iterable[bytes]) -> None:
        # A position is the number of a step. Those of one glob follow each other; the glob has matched at its end.
        self._steps: list[Step | None] = []
        self._owner: list[int] = []
        self._home_starts: list[int] = []
        self._states: dict[tuple[frozenset[int], frozenset[int]], State] = {}
        starts: list[int] = []
        for number, glob in enumerate(globs):
            for at_home, steps in parse_glob(glob):
                (self._home_starts if at_home else starts).append(len(self._steps))
                self._steps += (*steps, None)
                self._owner += [number] * (len(steps) + 1)
        self.start = self._state(starts, frozenset())

    def step(self, state: State, name: bytes) -> State:
        """Return the state of what is called `name` in a directory of this state."""
        taken = state._literals.get(name, ())
        if state._any_form is not None and state._any_form.fullmatch(name):
            taken += tuple(position for form, position in state._forms if form.fullmatch(name))
        if not taken:
            return state._default or self._other(state)
        after = state._after.get(taken)
        if after is None:
            after = state._after[taken] = self._state((*state._lasting, *taken), state.tags)
        return after

    def leaf(self, state: State, name: bytes) -> State:
        """Like `step`, for what holds nothing: cheaper, and only the `tags` of the result mean something."""
        if name in state._literals or (state._end_form is not None and state._end_form.fullmatch(name)):
            return self.step(state, name)
        return state._default or self._other(state)

    def at_home(self, state: State) -> State:
        """Return the state of a directory, so far of this state, that is somebody's home."""
        if state._home is None:
            state._home = self._state((*state._pending, *self._home_starts), state.tags)
        return state._home

    def walk(self, path: bytes) -> State:
        """Return the state of one path, given without a leading slash, in which no home lies."""
        state = self.start
        for name in path.split(b"/"):
            state = self.step(state, name)
        return state

    def _other(self, state: State) -> State:
        """Return the state of names that nothing in particular is said about."""
        state._default = self._state(state._lasting, state.tags)
        return state._default

    def _state(self, positions: Iterable[int], tags: frozenset[int]) -> State:
        todo, pending, matched = list(positions), set(), set(tags)
        while todo:
            position = todo.pop()
            step = self._steps[position]
            if step is None:
                matched.add(self._owner[position])
            elif position not in pending:
                pending.add(position)
                if step is Span.DEEP:
                    todo.append(position + 1)
        # What has matched stays matched below, so the rest of such a glob has nothing to add.
        key = (frozenset(p for p in pending if self._owner[p] not in matched), frozenset(matched))
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = State(*key)
            self._prepare(state)
        return state

    def _prepare(self, state: State) -> None:
        """Sort the positions of a new state by what they take."""
        literals: dict[bytes, tuple[int, ...]] = {}
        forms: list[tuple[re.Pattern[bytes], int]] = []
        lasting: list[int] = []
        content: set[int] = set()
        for position in sorted(state._pending):
            step = self._steps[position]
            if step is Span.DEEP:
                lasting.append(position)
            elif step is Span.REST:
                lasting.append(position + 1)
                content.add(self._owner[position])
            elif isinstance(step, bytes):
                literals[step] = (*literals.get(step, ()), position + 1)
            elif isinstance(step, re.Pattern):
                forms.append((step, position + 1))
        state.content = frozenset(content)
        state._lasting = tuple(lasting)
        state._literals = literals
        state._forms = tuple(forms)
        state._any_form = _one_of(form for form, _ in forms)
        state._end_form = _one_of(form for form, after in forms if self._steps[after] is None)


def _one_of(forms: Iterable[re.Pattern[bytes]]) -> re.Pattern[bytes] | None:
    """Return a pattern for names of any of these forms, or None where there are none."""
    texts = sorted({form.pattern for form in forms})
    return re.compile(b"|".join(b"(?:%s)" % text for text in texts), re.DOTALL) if texts else None


def parse_glob(glob: bytes) -> list[tuple[bool, tuple[Step, ...]]]:
    """Return a glob's alternatives: whether each begins at a home, and its steps.

    :raises InvalidInput: the glob breaks the syntax.
    """
    parsed = []
    for text in expand_braces(glob):
        names = text.split(b"/")
        if names[0] not in (b"", b"~", b"**") or len(names) < 2 or not names[-1]:
            raise InvalidInput(
                f"invalid path {_shown(glob)}", resolution="begin with /, ~/ or **/ and name something below it"
            )
        if any(name in (b"", b".", b"..") for name in names[1:]):
            raise InvalidInput(f"invalid path {_shown(glob)}", resolution="leave out empty names, . and ..")
        steps = tuple(_step(name) for name in (names if names[0] == b"**" else names[1:]))
        parsed.append((names[0] == b"~", (*steps[:-1], Span.REST) if steps[-1] is Span.DEEP else steps))
    return parsed


def expand_braces(glob: bytes) -> list[bytes]:
    """Return what the alternatives in braces stand for, one glob each; escapes stay in place.

    :raises InvalidInput: a brace is never closed, or braces stand for more than 1,000 globs.
    """
    done: list[bytes] = []
    todo = [glob]
    while todo:
        text = todo.pop()
        choices = _first_braces(text, glob)
        if choices is None:
            done.append(text)
        else:
            todo += reversed(choices)
        if len(done) + len(todo) > MAX_ALTERNATIVES:
            raise InvalidInput(f"path {_shown(glob)} stands for more than {MAX_ALTERNATIVES} paths")
    return done


def _first_braces(text: bytes, glob: bytes) -> list[bytes] | None:
    """Return the text once for each alternative of its first braces, or None where it has none."""
    depth, opened, cuts = 0, 0, []
    for found in re.finditer(rb"\\.?|[{},]", text, re.DOTALL):
        mark, at = found.group(), found.start()
        if mark == b"{":
            depth += 1
            if depth == 1:
                opened, cuts = at, [at]
        elif mark == b"," and depth == 1:
            cuts.append(at)
        elif mark == b"}" and depth:
            depth -= 1
            if depth == 0:
                cuts.append(at)
                pieces = [text[start + 1 : end] for start, end in pairwise(cuts)]
                return [text[:opened] + piece + text[at + 1 :] for piece in pieces]
    if depth:
        raise InvalidInput(
            f"invalid path {_shown(glob)}: a brace is not closed", resolution="write \\{ for a brace itself"
        )
    return None


def _step(name: bytes) -> Step:
    if name == b"**":
        return Span.DEEP
    pieces = [(found.group(), found.group(1)) for found in _PIECE.finditer(name)]
    if not any(piece in (b"*", b"?") for piece, _ in pieces):
        return b"".join(text for _, text in pieces)
    forms = {b"*": b".*", b"?": b"."}
    return re.compile(b"".join(forms.get(piece) or re.escape(text) for piece, text in pieces), re.DOTALL)


def _shown(glob: bytes) -> str:
    return repr(glob.decode("utf-8", "backslashreplace"))
