"""Owns turning options that are data (`cli/options.py`) into click's, and options that several commands share."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from envkit.cli.options import Option

Command = TypeVar("Command", bound=Callable[..., Any])


def click_options(options: Sequence[Option]) -> Callable[[Command], Command]:
    """Return a decorator that gives a click command these options."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = click.option(
                *option.flags,
                option.key,
                metavar=option.metavar,
                multiple=option.multiple,
                required=option.required,
                is_flag=option.metavar is None,
                help=option.help,
            )(function)
        return function

    return decorate


def json_option(function: Command) -> Command:
    """Give a command `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")(function)
