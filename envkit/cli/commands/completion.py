"""`envkit completion`."""

import click
from click.shell_completion import get_completion_class


@click.command("completion", epilog='Example: eval "$(envkit completion bash)"')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, /, *, shell: str) -> None:
    """Print the completion script for your shell."""
    kind = get_completion_class(shell)
    if kind is not None:
        click.echo(kind(context.find_root().command, {}, "envkit", "_ENVKIT_COMPLETE").source())
