"""`envkit info`."""

from collections.abc import Iterator, Sequence

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.job_info import means_job, show_job
from envkit.cli.params import json_option
from envkit.services import sizes as service
from envkit.services.startpacks import ColdStart

_ENTRY_POINTS = 3


@click.command(
    "info",
    epilog="""\b
Examples:
  envkit info sci@2
  envkit info sci --by-package
  envkit info 12    a job; 12_3 is a task of it""",
)
@click.argument("env", metavar="ENV[@V]|ID")
@click.option("--by-directory", is_flag=True, help="Show the largest directories.")
@click.option("--by-package", is_flag=True, help="Show the largest packages.")
@json_option
@pass_app
def command(app: App, /, *, env: str, by_directory: bool, by_package: bool, as_json: bool) -> None:
    """Show one version: what it builds on, what saving left out, and what it costs. Or a job: what it is, and how.

    "Stored" are the compressed bytes of all that it needs; "unique" is the part that no other environment in the store
    uses, "shared" the rest.
    """
    if means_job(app, env):
        show_job(app, env, as_json=as_json)
        return
    found = service.info(app.context, env, directories=by_directory or as_json, packages=by_package or as_json)
    if as_json:
        app.console.json(service.info_json(found))
        return
    for name, value in _rows(found):
        app.console.data(f"{name + ':':<14}{value}")
    app.console.data("")
    app.console.table(("LAYER", "ENTRIES", "FILES", "STORED", "UNIQUE", "STORED BY ITS SAVE"), list(_layers(found)))
    if found.sizes is None:
        app.console.say(f"sizes are unknown: {found.unknown}")
        return
    for title, parts in (("DIRECTORY", found.sizes.directories), ("PACKAGE", found.sizes.packages)):
        if parts is not None:
            app.console.data("")
            app.console.table((title, "SIZE", "FILES"), _parts(parts))
    for problem in found.sizes.unread:
        app.console.say(f"not looked at, so that unique may be too much: {problem}")


def _rows(found: service.Info) -> Iterator[tuple[str, str]]:
    version, sizes = found.version, found.sizes
    report = version.report
    yield "version", str(version)
    yield "description", found.description or "-"
    yield "tags", ", ".join(found.tags) or "-"
    yield "base", version.base or "-"
    yield "parent", version.parent or "-"
    if version.origin:
        yield "origin", version.origin
    yield "message", version.message or "-"
    yield "author", version.author
    yield "created", version.created
    yield "architecture", version.arch
    if version.needs.cpu:
        yield "needs a CPU with", f"{', '.join(version.needs.cpu)} ({version.needs.cpu_file} was compiled for one)"
    if version.needs.mpi:
        yield "MPI", ", ".join(version.needs.mpi)
    if sizes is None:
        yield "size", human_bytes(version.size)
    else:
        yield "size", f"{human_bytes(sizes.logical)} in {sizes.files} files"
        stored = sizes.stored
        yield "stored", human_bytes(stored.all)
        yield "unique", f"{human_bytes(stored.unique)}, shared {human_bytes(stored.shared)}"
    if found.cold is not None:
        yield "cold start", _cold_start(found.cold)
    yield "left out", "-" if report is None else f"{len(report.findings)} findings, rule set {report.ruleset}"


def _cold_start(cold: ColdStart) -> str:
    """Say what the first run on a node costs, for the entry points that were learned last."""
    shown = [f"{entry.entry_point} {human_bytes(entry.bytes)}" for entry in cold.entries[:_ENTRY_POINTS]]
    if len(cold.entries) > _ENTRY_POINTS:
        shown.append(f"{len(cold.entries) - _ENTRY_POINTS} more")
    return f"{human_bytes(cold.metadata)} of file lists, start packs: {', '.join(shown) or 'none yet'}"


def _layers(found: service.Info) -> Iterator[tuple[str, ...]]:
    version, sizes = found.version, found.sizes
    for number, layer in enumerate(version.layers):
        stored = None if sizes is None else sizes.layers[number].stored
        all_and_unique = ("-", "-") if stored is None else (human_bytes(stored.all), human_bytes(stored.unique))
        yield (
            layer.tree[:12],
            str(layer.entries),
            human_bytes(layer.size),
            *all_and_unique,
            human_bytes(layer.stored),
        )


def _parts(parts: Sequence[service.Part]) -> list[tuple[str, str, str]]:
    return [(part.name, human_bytes(part.size), str(part.files)) for part in parts]
