"""`envkit wait-port`."""

import click

from envkit.cli.app import App, pass_app
from envkit.cli.jobs import id_argument, one_task
from envkit.cli.params import json_option
from envkit.services.jobs.joining import wait_port


@click.command(
    "wait-port",
    epilog="""\b
Examples:
  envkit wait-port 12 8888
  curl http://$(envkit wait-port 12 8888 --timeout 60)/""",
)
@id_argument
@click.argument("port", type=click.IntRange(1, 65_535))
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait so long at most; exit code 124."
)
@click.option("--host", "host_only", is_flag=True, help="Print the host without the port.")
@json_option
@pass_app
def command(app: App, /, name: str, port: int, *, timeout: float | None, host_only: bool, as_json: bool) -> None:
    """Wait until something in a task listens on a TCP port, and print HOST:PORT where it can be reached.

    With --net host that is the node, with nat the container's address, on its node. Without a network nothing is
    printed: it can be reached only inside, as with `envkit ssh`.
    """
    found = wait_port(app.context, one_task(name), port, timeout=timeout)
    if as_json:
        app.console.json({"host": found.host, "port": found.port, "note": found.note or None})
        return
    if found.host is not None:
        app.console.data(found.host if host_only else f"{found.host}:{found.port}")
    if found.note:
        app.console.say(f"port {found.port} is open{' inside only' if found.host is None else ''}: {found.note}")
