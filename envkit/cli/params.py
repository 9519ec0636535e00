"""Owns turning options that are data (`cli/options.py`) into click's, and options that several commands share."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from envkit.cli.app import App
from envkit.cli.options import Option

_JSON = "as_json"

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
    """Give a command `--json`. It is read before the other options, so that errors in them are JSON, too."""
    return click.option(
        "--json",
        _JSON,
        is_flag=True,
        is_eager=True,
        callback=_take_json,
        help="Print JSON instead of a table, and progress and errors as JSON on standard error.",
    )(function)


def _take_json(context: click.Context, _parameter: click.Parameter, value: bool) -> bool:  # noqa: FBT001  # click's
    app = context.find_object(App)
    if value and app is not None:
        app.as_json = True
    return value


def asked_for_json(context: click.Context | None, words: Sequence[str]) -> bool:
    """Tell whether a command that could not be read was asked for JSON."""
    knows = context is not None and any(parameter.name == _JSON for parameter in context.command.params)
    own = words[: words.index("--")] if "--" in words else words
    return knows and "--json" in own
