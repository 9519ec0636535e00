"""What programs read: every line is JSON, and there are not too many."""

import json
import sys
import threading

import pytest

from envkit.cli.boundary import show, show_interrupt
from envkit.cli.console import Console
from envkit.cli.events import EventProgress
from envkit.errors import NotFound
from envkit.model.interruption import Stopped, remains


@pytest.fixture
def read(capsys):
    def lines():
        out, err = capsys.readouterr()
        assert out == ""
        return [json.loads(line) for line in err.splitlines()]

    return lines


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_step_tells_its_beginning_its_way_and_its_end(read):
    clock = Clock()
    with EventProgress(clock=clock).step("storing", total=1000, unit="bytes") as step:
        for _ in range(8):
            clock.now += 0.2
            step.advance(100)
    shared = {"step": "storing", "total": 1000, "unit": "bytes"}
    assert read() == [
        {"event": "progress", "done": 0, "seconds": 0.0, "rate": 0} | shared,
        {"event": "progress", "done": 300, "seconds": 0.6, "rate": 500} | shared,
        {"event": "progress", "done": 600, "seconds": 1.2, "rate": 500} | shared,
        {"event": "done", "done": 800, "seconds": 1.6, "rate": 500} | shared,
    ]


def test_a_step_that_fails_is_not_done(read):
    with pytest.raises(ValueError, match="x"), EventProgress().step("scanning") as step:
        step.advance(3)
        raise ValueError("x")
    begin, end = read()
    assert (begin["event"], end["event"], end["done"], end["total"], end["unit"]) == (
        "progress",
        "stopped",
        3,
        None,
        "files",
    )


def test_lines_of_several_threads_stay_whole_and_are_few(read):
    clock = Clock()
    with EventProgress(clock=clock).step("x" * 1000) as step:

        def work():
            for _ in range(1000):
                clock.now += 0.001
                step.advance(1)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = read()
    assert lines[-1]["done"] == 4000
    assert len(lines) <= 2 + 4.0 / 0.5


def test_talk_and_errors_are_events(read):
    Console(EventProgress(), events=True).say("a\x1b[31m")
    assert show(NotFound("no x", details="a\nb", resolution="make one"), events=True) == 3
    assert read() == [
        {"event": "message", "message": "a\x1b[31m"},
        {"event": "error", "message": "no x", "details": "a\nb", "hint": "make one", "exit_code": 3},
    ]


def test_an_interruption_is_an_event_with_what_it_leaves(read):
    with pytest.raises(Stopped) as caught, remains(lambda: "outer"), remains(lambda: ""), remains(lambda: "inner"):
        raise Stopped(15)
    assert show_interrupt(caught.value, events=True) == 143
    assert read() == [
        {"event": "error", "message": "ended by SIGTERM", "details": "outer\ninner", "hint": None, "exit_code": 143}
    ]


def test_a_reader_that_went_away_does_not_end_the_work(monkeypatch):
    class Gone:
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    with EventProgress().step("storing") as step:
        step.advance(1)
