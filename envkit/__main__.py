"""Entry point: `envkit`, and `python -m envkit`."""

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        from envkit.cli.interrupts import Interrupts, interrupt_code

        interrupts = Interrupts()
    except KeyboardInterrupt:  # also in the middle of an import
        os._exit(130)
    try:
        interrupts.install()
        code = _run()
    except KeyboardInterrupt as stop:
        code = interrupt_code(stop)
    except SystemExit as end:
        if not isinstance(end.code, int):
            raise
        code = end.code
    interrupts.ignore()
    from envkit.cli.boundary import flush

    # What else Python would do at its end, freeing and joining, is the kernel's to do.
    unflushed = flush()
    os._exit(code or unflushed)


def _run() -> int:
    from envkit.cli.argv import read_run
    from envkit.cli.boundary import fill_standard_streams, show, show_interrupt
    from envkit.errors import EnvkitError

    fill_standard_streams()
    plain = read_run(sys.argv[1:])
    if plain is None:
        from envkit.cli.root import cli

        cli(prog_name="envkit")
        return 0
    # A short-lived process makes no garbage worth collecting: 3 ms of a start.
    gc.disable()
    from envkit.cli.job import run_failures, run_job
    from envkit.config.load import load

    settings, values, command = plain
    try:
        with run_failures():
            config = load(settings)
        code = run_job(config, values, command)
    except EnvkitError as error:
        code = show(error)
    except KeyboardInterrupt as stop:
        code = show_interrupt(stop)
    return code


if __name__ == "__main__":
    main()
