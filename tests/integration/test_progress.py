"""What is told of long work: bars to people, lines to programs, nothing to anybody else."""

import itertools
import json

import pytest
from commandline import Terminal
from screen import screen

pytestmark = [pytest.mark.root, pytest.mark.lxc]

SIZE = 300_000_000
"""Bytes whose storing takes longer than what is too short to be shown."""


_numbers = itertools.count()


@pytest.fixture
def large(envkit):
    """A session with a large file of its own, so that a save has to store it."""
    with envkit.session(f"progress-{next(_numbers)}") as name:
        envkit.inside(name, f"head -c {SIZE} /dev/urandom >/opt/blob").ok()
        yield name


def _events(outcome):
    return [json.loads(line) for line in outcome.stderr.splitlines()]


def test_a_program_reads_progress_on_standard_error_and_the_result_on_standard_output(envkit, large):
    outcome = envkit("save", large, "--json")
    assert json.loads(outcome.ok())["version"] == f"lab/{large}@1"
    events = _events(outcome)
    assert {event["event"] for event in events} == {"progress", "done"}
    packing = [event for event in events if event["step"] == "packing"]
    assert packing[0] == packing[0] | {"event": "progress", "done": 0, "unit": "bytes", "seconds": 0.0, "rate": 0}
    assert packing[-1]["event"] == "done"
    assert packing[-1]["done"] == packing[-1]["total"] >= SIZE
    assert [event["done"] for event in packing] == sorted(event["done"] for event in packing)
    for before, after in itertools.pairwise(packing[:-1]):
        assert after["seconds"] - before["seconds"] >= 0.5
    ended = [event["step"] for event in events if event["event"] == "done"]
    begun = {event["step"] for event in events if event["event"] == "progress"}
    assert sorted(ended) == sorted(begun)


def test_without_a_terminal_nobody_is_told(envkit, large):
    outcome = envkit("save", large)
    assert outcome.ok() == f"lab/{large}@1"
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(f"saved lab/{large}@1: ")


@pytest.mark.parametrize("columns", [50, 101])
def test_a_terminal_shows_how_far_it_is_and_only_the_result_in_the_end(envkit, large, columns):
    with Terminal(envkit, "save", large, columns=columns) as terminal:
        before = terminal.expect("packing ")
        shown = terminal.expect(" left")
        assert terminal.end() == 0
        after = terminal.seen.decode()
    assert "MB of 300 MB" in shown
    assert "MB/s" in shown
    assert "\x1b[?25l" not in before + shown + after
    lines = screen(f"{before}packing {shown} left{after}")
    # What is wider than the terminal goes on in its next line by itself.
    assert lines[0].startswith(f"saved lab/{large}@1: ")
    assert lines[1:] == [f"lab/{large}@1"]


def test_errors_are_events_where_json_was_asked_for(envkit):
    outcome = envkit("save", "missing", "--json")
    assert (outcome.code, outcome.out) == (3, b"")
    (event,) = _events(outcome)
    assert event["event"] == "error"
    assert event["message"] == "no session on lab/missing is open"
    assert event["hint"].startswith("open one: ")
    assert event["exit_code"] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("info", "--json"), "Missing argument 'ENV[@V]|ID'."),
        (("save", "x", "--json", "--bogus"), "No such option '--bogus'."),
        (("--profile", "nix", "list", "--json"), "--profile: there is no profile 'nix'"),
    ],
)
def test_so_are_errors_in_the_command_line_itself(envkit, words, message):
    outcome = envkit(*words)
    assert (outcome.code, outcome.out) == (3 if "nix" in words else 2, b"")
    (event,) = _events(outcome)
    assert (event["event"], event["exit_code"]) == ("error", outcome.code)
    assert event["message"].startswith(message)


def test_a_terminal_gets_words_also_where_json_was_asked_for(envkit):
    with Terminal(envkit, "save", "missing", "--json", env={"NO_COLOR": "1"}) as terminal:
        terminal.expect("error: no session on lab/missing is open")
        assert terminal.end() == 3


def test_a_full_disk_under_standard_output_is_told(envkit):
    with open("/dev/full", "wb") as full, envkit.start("list", "--json", stdout=full) as process:
        assert process.wait(60) == 1
        event = json.loads(process.stderr.read())
    assert event["message"] == "cannot write to standard output: No space left on device"
