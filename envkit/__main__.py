"""Entry point: `envkit`, and `python -m envkit`."""

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _run()
    except KeyboardInterrupt:  # also in the middle of an import
        sys.exit(130)


def _run() -> None:
    from envkit.cli.argv import read_run
    from envkit.cli.boundary import fill_standard_streams, flush, show
    from envkit.errors import EnvkitError

    fill_standard_streams()
    plain = read_run(sys.argv[1:])
    if plain is None:
        from envkit.cli.root import cli

        cli(prog_name="envkit")
        return
    # A short-lived process makes no garbage worth collecting, and what it has is the kernel's to free: 3 ms of a start.
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
    except KeyboardInterrupt:
        code = 130
    code = code or flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
