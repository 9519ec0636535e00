"""Owns the command tree: names and one-line helps here, each command's code in its own module, imported when used."""

import importlib
import sys

import click

from envkit import __version__
from envkit.cli.app import App
from envkit.cli.boundary import Refused, machine_failures, show, show_interrupt
from envkit.cli.options import GLOBAL
from envkit.cli.params import asked_for_json, click_options
from envkit.errors import EXIT_FAILURE, EXIT_RUN_FAILED, EXIT_USAGE, EnvkitError, InvalidInput

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
    "submit": "Run a command in an environment as a job.",
    "sbatch": "Run a batch script in an environment as a job, unchanged.",
    "map": "Run a command once for each of many values, as the tasks of one job.",
    "jobs": "Show jobs and how they are.",
    "logs": "Show what jobs print.",
    "wait": "Wait until jobs are over.",
    "result": "Print what jobs have printed, when they are over.",
    "kill": "End jobs.",
    "rerun": "Run a job again.",
    "ssh": "Open a shell in the container of a running job.",
    "shell-on": "Open a shell in an environment as a job.",
    "wait-port": "Wait until a job listens on a port.",
    "list": "List environments.",
    "info": "Show one version of an environment, or one job.",
    "log": "Show the versions of an environment.",
    "files": "List what a version's files are.",
    "diff": "Show what differs between two versions, by package and by file.",
    "copy": "Copy versions to another store.",
    "tag": "Give a version a name, as in sci@stable.",
    "describe": "Say what an environment is for.",
    "rollback": "Go back to an earlier version.",
    "clone": "Make an environment of a version of another one.",
    "rename": "Give an environment another name, with all its versions.",
    "squash": "Make one layer of all that lie on the base.",
    "delete": "Delete versions of an environment, or all of it.",
    "undelete": "Bring deleted versions back.",
    "verify": "Check that everything in the store is there and whole.",
    "repair": "Put damaged objects of the store back.",
    "gc": "Delete from the store what no version needs any more.",
    "store": "Make a store in a directory or bucket of your choice.",
    "cache": "Look after what this machine keeps of environments.",
    "stat": "Show what is fetched on demand on this machine now.",
    "doctor": "Check this machine and say how to mend what is missing.",
    "completion": "Print the completion script for your shell.",
}
HIDDEN = ("task", "follow", "enter", "sweep", "queue")
"""What other programs call, and nobody types."""


class CommandTree(click.Group):
    """The root group; turns errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which people meet them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command's module and return the command."""
        if cmd_name not in COMMANDS and cmd_name not in HIDDEN:
            return None
        command = importlib.import_module(f"envkit.cli.commands.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)  # noqa: S101  # modules of this package
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them all."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; what ends it early is told here, in the form in which it was asked for its result."""
        try:
            with machine_failures():
                return super().invoke(ctx)
        except (EnvkitError, KeyboardInterrupt, click.Abort, click.UsageError) as failure:
            app = ctx.obj if isinstance(ctx.obj, App) else App({})
            if isinstance(failure, click.UsageError) and asked_for_json(failure.ctx, sys.argv):
                app.as_json = True
            with app.progress.hidden():
                return _tell(failure, events=app.events)

    def main(self, *args: object, **extra: object) -> int:  # type: ignore[override]  # in click it never does
        """Run the command line and return its exit code."""
        extra["standalone_mode"] = False
        code = 0
        try:
            result = super().main(*args, **extra)  # type: ignore[call-overload]  # click's own signature
            code = result if isinstance(result, int) else 0
        except (EnvkitError, click.Abort, click.UsageError) as failure:
            code = _tell(failure, events=False)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except BrokenPipeError:
            code = EXIT_FAILURE
        except SystemExit as end:  # click has printed a completion
            code = int(end.code or 0)
        return code


def _tell(failure: BaseException, *, events: bool) -> int:
    """Tell why a command ended early; return its exit code."""
    if isinstance(failure, click.UsageError):
        return _tell_usage(failure, events=events)
    if isinstance(failure, EnvkitError):
        return show(failure, events=events)
    cause = failure.__context__ if isinstance(failure, click.Abort) else failure
    if cause is not failure and cause is not None:
        sys.stderr.write("\n")  # the line of the question
    if isinstance(cause, KeyboardInterrupt):
        return show_interrupt(cause, events=events)
    return show(Refused(), events=events)


def _tell_usage(error: click.UsageError, *, events: bool) -> int:
    """`run` answers for another command, so that its own failures are all 125."""
    code = EXIT_RUN_FAILED if error.ctx is not None and error.ctx.info_name == "run" else EXIT_USAGE
    if not events:
        error.show()
        return code
    told = InvalidInput(
        error.format_message(), resolution=f"see `{error.ctx.command_path if error.ctx else 'envkit'} --help`"
    )
    told.exit_code = code
    return show(told, events=True)


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
    context.obj = App(flags)
