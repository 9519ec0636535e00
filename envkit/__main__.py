"""Entry point: `envkit`, and `python -m envkit`."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from envkit.cli.argv import read_run
    from envkit.cli.boundary import flush, show
    from envkit.errors import EnvkitError

    plain = read_run(sys.argv[1:])
    if plain is None:
        from envkit.cli.root import cli

        cli(prog_name="envkit")
        return
    from envkit.cli.job import run_job
    from envkit.config.load import load

    settings, values, command = plain
    try:
        code = run_job(load(settings), values, command)
    except EnvkitError as error:
        code = show(error)
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or flush())


if __name__ == "__main__":
    main()
