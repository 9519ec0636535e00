"""Entry point: `envkit`, and `python -m envkit`."""

import gc
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from envkit.cli.interrupts import Interrupts

        interrupts = Interrupts()
    except KeyboardInterrupt:  # also in the middle of an import
        os._exit(130)
    try:
        interrupts.install()
        code = _run()
        interrupts.ignore()  # in here, so that a signal before it is answered, too
    except KeyboardInterrupt as stop:
        code = _tell(stop)
    from envkit.cli.boundary import flush

    # What else Python would do at its end, freeing and joining, is the kernel's to do.
    unflushed = flush()
    os._exit(code or unflushed)


def _run() -> int:
    from envkit.cli.boundary import fill_standard_streams, show, show_interrupt
    from envkit.errors import EnvkitError

    fill_standard_streams()
    plain = _plain(sys.argv[1:])
    if plain is None:
        from envkit.cli.root import cli

        return cli.main(prog_name="envkit")
    # A short-lived process makes no garbage worth collecting: 3 ms of a start.
    gc.disable()
    try:
        code = plain()
    except EnvkitError as error:
        code = show(error)
    except KeyboardInterrupt as stop:
        code = show_interrupt(stop)
    return code


def _tell(stop: KeyboardInterrupt) -> int:
    """Tell of a signal that came before a command had begun, or after its end; return the exit code."""
    from envkit.cli.boundary import show_interrupt

    own = sys.argv[: sys.argv.index("--")] if "--" in sys.argv else sys.argv
    return show_interrupt(stop, events="--json" in own and not sys.stderr.isatty())


def _plain(argv: "Sequence[str]") -> "Callable[[], int] | None":
    """Return what does what a command line says; None where only click can read it."""
    from envkit.cli.argv import read_called, read_run

    if (run := read_run(argv)) is not None:
        return lambda: _run_job(*run)
    if (called := read_called(argv)) is not None:
        from envkit.cli.called import run_called

        return lambda: run_called(*called)
    return None


def _run_job(settings: "Mapping[str, str | None]", values: "Mapping[str, object]", command: "Sequence[str]") -> int:
    from envkit.cli.job import run_failures, run_job
    from envkit.config.load import load

    with run_failures():
        config = load(settings)
    return run_job(config, values, command)


if __name__ == "__main__":
    main()
