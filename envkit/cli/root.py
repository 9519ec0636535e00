"""Owns the command tree: names and one-line helps here, each command's code in its own module, imported when used."""

import contextlib
import importlib
import sys

import click

from envkit import __version__
from envkit.cli.app import App
from envkit.cli.boundary import flush, show, show_interrupt
from envkit.cli.job import run_failures
from envkit.cli.options import GLOBAL
from envkit.cli.params import click_options
from envkit.config.load import load
from envkit.errors import EXIT_USAGE, EnvkitError

COMMANDS = {
    "base": "Build, import, list and delete bases.",
    "create": "Open a session: a root shell over a base, to install things in.",
    "shell": "Enter an open session again.",
    "exec": "Run one command in an open session.",
    "cp": "Copy files into and out of a session.",
    "status": "Show open sessions and their unsaved changes.",
    "save": "Store a session's changes as a new version.",
    "close": "End a session.",
    "run": "Run a command in an environment on this machine.",
    "list": "List environments.",
    "info": "Show one version of an environment.",
    "log": "Show the versions of an environment.",
    "files": "List what a version's files are.",
    "delete": "Delete versions of an environment, or all of it.",
    "store": "Make a store in a directory of your choice.",
    "doctor": "Check this machine and say how to mend what is missing.",
    "completion": "Print the completion script for your shell.",
}


class CommandTree(click.Group):
    """The root group; turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return the command."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"envkit.cli.commands.{cmd_name}").command
        assert isinstance(command, click.Command)  # noqa: S101  # modules of this package
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them all."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: object, **extra: object) -> None:  # type: ignore[override]  # it never returns
        """Run the command line and exit."""
        extra["standalone_mode"] = False
        code = 0
        try:
            result = super().main(*args, **extra)  # type: ignore[call-overload]  # click's own signature
            code = result if isinstance(result, int) else 0
        except EnvkitError as error:
            code = show(error)
        except click.exceptions.Abort:
            code = show_interrupt()
        except click.ClickException as error:
            error.show()
            code = error.exit_code if not isinstance(error, click.UsageError) else _usage_code(error)
        except BrokenPipeError:
            pass
        sys.exit(code or flush())


def _usage_code(error: click.UsageError) -> int:
    """`run` answers for another command, so that its own failures are all 125."""
    from envkit.errors import EXIT_RUN_FAILED

    inside_run = error.ctx is not None and error.ctx.info_name == "run"
    return EXIT_RUN_FAILED if inside_run else EXIT_USAGE


@click.group(
    cls=CommandTree,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Begin with `envkit doctor`, then `envkit base build debian-12` and `envkit create sci --base debian-12`.",
)
@click.version_option(__version__, prog_name="envkit")
@click_options(GLOBAL)
@click.pass_context
def cli(context: click.Context, /, **flags: str | None) -> None:
    """A virtualenv for the whole filesystem.

    Open a root shell over a read-only base, install anything, save only the difference, and run jobs in it.
    """
    with run_failures() if context.invoked_subcommand == "run" else contextlib.nullcontext():
        context.obj = App(load(flags))
