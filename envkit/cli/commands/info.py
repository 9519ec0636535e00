"""`envkit info`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import environments


@click.command("info", epilog="Example: envkit info sci@2")
@click.argument("env", metavar="ENV[@V]")
@json_option
@pass_app
def command(app: App, /, *, env: str, as_json: bool) -> None:
    """Show one version: what it builds on, its layers and sizes, and what saving left out."""
    version = environments.resolve(app.context, env)
    if as_json:
        app.console.json(environments.version_json(version))
        return
    report = version.report
    rows = [
        ("version", str(version)),
        ("base", version.base or "-"),
        ("parent", version.parent or "-"),
        ("message", version.message or "-"),
        ("author", version.author),
        ("created", version.created),
        ("architecture", version.arch),
        ("size", human_bytes(version.size)),
        ("left out", "-" if report is None else f"{len(report.findings)} findings, rule set {report.ruleset}"),
    ]
    for name, value in rows:
        app.console.data(f"{name + ':':<14}{value}")
    layers = [
        (layer.tree[:12], str(layer.entries), human_bytes(layer.size), human_bytes(layer.stored))
        for layer in version.layers
    ]
    app.console.data("")
    app.console.table(("LAYER", "ENTRIES", "FILES", "STORED BY ITS SAVE"), layers)
