"""The two readers of `envkit run` command lines must agree."""

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.cli.argv import read_called, read_run
from envkit.cli.options import GLOBAL, JOB
from envkit.cli.params import click_options

WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\n"), max_size=8)


def read_with_click(argv):
    seen = {}

    @click.group()
    @click_options(GLOBAL)
    @click.pass_context
    def top(context, **flags):
        seen["flags"] = flags

    @top.command("run", context_settings={"allow_interspersed_args": False})
    @click_options(JOB)
    @click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
    def run(command, **values):
        seen.update(values=values, command=command)

    result = CliRunner().invoke(top, argv)
    if result.exit_code != 0:
        return None
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in seen["values"].items()}
    return seen["flags"], values, seen["command"]


def option_words(options):
    def words(option):
        flag = st.sampled_from(option.flags)
        if option.metavar is None:
            return flag.map(lambda word: [word]) | st.tuples(flag, WORDS).map(lambda pair: [f"{pair[0]}={pair[1]}"])
        separate = st.tuples(flag, WORDS).map(list)
        joined = st.tuples(flag, WORDS).map(lambda pair: [f"{pair[0]}={pair[1]}"])
        return separate | joined

    return st.lists(st.one_of([words(option) for option in options]), max_size=4).map(
        lambda parts: [word for part in parts for word in part]
    )


@settings(max_examples=300, deadline=None)
@given(
    option_words(GLOBAL),
    option_words(JOB),
    st.sampled_from([["-e", "sci"], ["--env-name=sci"], []]),
    st.sampled_from([["--"], []]),
    st.lists(WORDS, max_size=4),
)
def test_both_readers_agree_wherever_the_plain_one_answers(top, options, environment, separator, command):
    argv = [*top, "run", *options, *environment, *separator, *command]
    plain = read_run(argv)
    if plain is not None:
        assert plain == read_with_click(argv)


def test_the_plain_reader_takes_what_users_type():
    argv = [
        "--store",
        "/s",
        "--profile=work",
        "run",
        "-e",
        "sci@2",
        "-v",
        "/a:/b",
        "-v",
        "/c",
        "--env=A=b c",
        "--",
        "python3",
        "-c",
        "x",
    ]
    settings, values, command = read_run(argv)
    assert {key: value for key, value in settings.items() if value} == {"store": "/s", "profile": "work"}
    assert values["environment"] == "sci@2"
    assert values["volumes"] == ["/a:/b", "/c"]
    assert values["variables"] == ["A=b c"]
    assert command == ("python3", "-c", "x")


@pytest.mark.parametrize(
    "argv",
    [[], ["run"], ["run", "-e", "sci"], ["run", "true"], ["run", "--help"], ["list"], ["run", "-e", "sci", "--bogus", "x"],
     ["run", "-e"], ["run", "-esci", "true"], ["--version"], ["run", "-e", "sci", "--", ]],
)  # fmt: skip
def test_the_plain_reader_leaves_the_rest_to_click(argv):
    assert read_run(argv) is None


def test_the_plain_reader_takes_what_queues_call():
    task = ["task", "lab", "0" * 32, "f" * 64]
    settings, name, words = read_called(["--store", "/s", *task])
    assert (settings["store"], settings["root"]) == ("/s", None)
    assert (name, words) == ("task", ("lab", "0" * 32, "f" * 64))
    assert read_called(["sweep", "--job", "17"])[1:] == ("sweep", ("17",))


@pytest.mark.parametrize(
    "argv",
    [[], ["task"], ["task", "--help"], ["task", "a", "b"], ["task", "a", "b", "c", "d"], ["task", "--rank", "a", "b", "c"],
     ["task", "--", "a", "b", "c"], ["task", "a", "b", "--rank"], ["sweep"], ["sweep", "--job"], ["sweep", "--job", "-1"],
     ["sweep", "--job", "x"], ["sweep", "--job", "\u0661"], ["sweep", "--job", "9" * 30], ["--bogus", "task", "a", "b", "c"],
     ["run", "-e", "sci", "task", "a", "b"]],
)  # fmt: skip
def test_the_plain_reader_leaves_unusual_calls_of_queues_to_click(argv):
    assert read_called(argv) is None
