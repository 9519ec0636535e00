"""`envkit stat`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.console import human_bytes
from envkit.cli.params import json_option
from envkit.services import serving

_DIGITS = 12


@click.command(
    "stat",
    epilog="""\b
Examples:
  envkit stat
  envkit stat --files
  envkit stat --json""",
)
@click.option("--files", is_flag=True, help="List the files that were fetched because somebody read them.")
@json_option
@pass_app
def command(app: App, /, *, files: bool, as_json: bool) -> None:
    """Show what this machine's image server has fetched of the layers that are in use.

    It runs while containers use layers that are not complete here; `envkit run --stats` tells the same of one job.
    """
    state = serving.server_state(app.context, files=files)
    if as_json:
        app.console.json(serving.server_state_json(state))
        return
    if state is None:
        app.console.say("no image server is running: nothing is fetched on demand now")
        return
    rows = [
        (
            layer.digest[:_DIGITS],
            f"{human_bytes(layer.ready)} of {human_bytes(layer.size)}",
            human_bytes(layer.fetched),
            str(layer.reads),
            f"{100 * layer.hit_rate:.1f} %",
            f"{layer.stalled:.2f} s",
        )
        for layer in state.layers
    ]
    app.console.table(("LAYER", "HERE", "FETCHED", "READS", "HITS", "STALLED"), rows)
    for layer in state.layers:
        for path in layer.files:
            app.console.data(f"{layer.digest[:_DIGITS]} {path}")
    fetched = state.fetched
    app.console.say(
        f"fetched {human_bytes(fetched['bytes'])} in {fetched['requests']} requests, {fetched['retries']} of them"
        f" repeated; round trip {1000 * state.round_trip:.1f} ms, {human_bytes(state.bandwidth)}/s"
    )
