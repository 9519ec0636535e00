"""`envkit diff`."""

from collections import Counter
from collections.abc import Iterable, Iterator

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.model.difference import Change, How, by_directory
from envkit.model.tree import Entry, Kind, display_path
from envkit.services import diff as service
from envkit.services.packages import Fate, PackageChange

_MANY_FILES = 50
_MANY_PACKAGES = 60
_DIRECTORIES = 25
_SIGNS = {How.ADDED: "+", How.REMOVED: "-", How.CHANGED: "~"}


@click.command(
    "diff",
    epilog="""\b
Examples:
  envkit diff sci              what the latest version of sci changed
  envkit diff sci@1 sci@3      what leads from version 1 to version 3
  envkit diff sci@1 --files    every path""",
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="[B]", required=False)
@click.option("--files", is_flag=True, help="Only files, and every one of them.")
@click.option("--packages", is_flag=True, help="Only packages, and every one of them.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there are differences; 0 says that there are none.")
@json_option
@click.pass_context
@pass_app
def command(
    app: App,
    context: click.Context,
    /,
    *,
    a: str,
    b: str | None,
    files: bool,
    packages: bool,
    exit_code: bool,
    as_json: bool,
) -> None:
    """Show what leads from version A to version B; with A alone, what A changed of the version before
    it, or the first version of what it was built on.

    Packages of dpkg, pip, conda and npm come first, then files. "+" was added, "-" removed, "~" changed; what changed
    stands behind the path. Times of directories do not count. The exit code is 0 with and without differences.
    """
    both = files == packages
    found = service.diff(app.context, a, b, files=files or both, packages=packages or both)
    if as_json:
        app.console.json(service.difference_json(found))
    else:
        app.console.data(f"{found.before} -> {found.after}")
        for line in _lines(found, whole=not both or files):
            app.console.data(line)
    if exit_code and (found.files or found.packages):
        context.exit(1)


def _lines(found: service.Difference, *, whole: bool) -> Iterator[str]:
    if found.packages is not None:
        yield f"packages: {_counts(Fate, (package.fate for package in found.packages))}"
        shown = found.packages if whole else found.packages[:_MANY_PACKAGES]
        yield from map(_package_line, shown)
        if len(shown) < len(found.packages):
            yield f"  and {len(found.packages) - len(shown)} more; --packages shows all"
    if found.files is not None:
        growth = sum(change.growth for change in found.files)
        counts = _counts(How, (change.how for change in found.files))
        yield f"files: {counts}{_only_time(found.files)}, {_signed(growth)}"
        if whole or len(found.files) <= _MANY_FILES:
            yield from map(_file_line, found.files)
        else:
            yield from _directory_lines(found.files)


def _counts(kinds: "Iterable[How] | Iterable[Fate]", found: "Iterable[How] | Iterable[Fate]") -> str:
    counts = Counter(kind.value for kind in found)
    return ", ".join(f"{counts[kind.value]} {kind.value}" for kind in kinds if counts[kind.value]) or "none differ"


def _only_time(changes: list[Change]) -> str:
    count = sum(change.what == ("time",) for change in changes)
    return f" ({count} of them only in their times)" if count else ""


def _package_line(package: PackageChange) -> str:
    sign = {Fate.ADDED: "+", Fate.REMOVED: "-"}.get(package.fate, "~")
    versions = " -> ".join(" and ".join(side) for side in (package.before, package.after) if side)
    word = f" {package.fate.value}" if package.before and package.after else ""
    place = f" in {package.place}" if package.place else ""
    return f"  {sign} {package.name} {versions}{word} ({package.manager}{place})"


def _file_line(change: Change) -> str:
    line = f"  {_SIGNS[change.how]} {display_path(change.path)}"
    if change.before is not None and change.after is not None:
        return f"{line}  {', '.join(_told(word, change.before, change.after) for word in change.what)}"
    entry = change.after or change.before
    assert entry is not None  # noqa: S101  # one of them is there
    if entry.kind is Kind.FILE:
        return f"{line}  {human_bytes(entry.size)}"
    return f"{line}/" if entry.kind is Kind.DIRECTORY and change.path else line


def _told(word: str, a: Entry, b: Entry) -> str:
    if word == "kind":
        return f"{a.kind.name.lower()} -> {b.kind.name.lower()}"
    if word == "content" and a.size != b.size:
        return f"content {human_bytes(a.size)} -> {human_bytes(b.size)}"
    if word == "mode":
        return f"mode {a.mode:04o} -> {b.mode:04o}"
    if word == "owner":
        return f"owner {a.uid}:{a.gid} -> {b.uid}:{b.gid}"
    if word == "target":
        return f"target {_text(a.target)} -> {_text(b.target)}"
    return word


def _text(target: bytes) -> str:
    return target.decode("utf-8", "backslashreplace")


def _directory_lines(changes: list[Change]) -> Iterator[str]:
    for row in by_directory(changes, rows=_DIRECTORIES):
        place = display_path(row.path).rstrip("/")
        counts = ", ".join(f"{row.counts[how]} {how.value}" for how in How if row.counts.get(how))
        yield f"  {place}/{'*' if row.direct else ''}  {counts}, {_signed(row.growth)}"
    yield "  (--files shows every path)"


def _signed(size: int) -> str:
    return f"{'-' if size < 0 else '+'}{human_bytes(abs(size))}"
