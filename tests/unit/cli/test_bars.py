"""The display on a terminal, with a clock that the test moves and a screen that it looks at."""

import io
import threading

import pytest
from screen import screen

from envkit.cli import bars
from envkit.cli.bars import BarProgress, facts
from envkit.cli.meter import Meter


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Display:
    """A display that draws only when the test says so."""

    def __init__(self, monkeypatch, width):
        monkeypatch.setattr(BarProgress, "_draw_until", lambda self, ended: ended.wait())
        self.clock = Clock()
        self.file = io.StringIO()
        console = bars._Console(file=self.file, force_terminal=True, width=width, height=20, color_system=None)
        self.progress = BarProgress(console=console, clock=self.clock)

    def after(self, seconds):
        self.clock.now += seconds
        self.progress.draw()
        return self.seen()

    def seen(self):
        return screen(self.file.getvalue())


@pytest.fixture
def display(monkeypatch):
    return Display(monkeypatch, 100)


def test_short_work_is_not_shown(display):
    with display.progress.step("scanning") as step:
        step.advance(5)
        display.after(0.4)
    display.progress.draw()
    assert display.file.getvalue() == ""


def test_longer_work_is_shown_and_gone_in_the_end(display):
    with display.progress.step("storing", total=3_000_000, unit="bytes") as step:
        step.advance(1_000_000)
        (line,) = display.after(1)
        assert line.startswith("storing ")
        assert line.endswith(" 1.0 MB of 3.0 MB, 1.0 MB/s, 0:02 left")
        step.advance(1_000_000)
        (line,) = display.after(1)
        assert line.endswith(" 2.0 MB of 3.0 MB, 1.0 MB/s, 0:01 left")
    assert display.seen() == []
    assert "\x1b[?25l" not in display.file.getvalue()  # the cursor is never taken away


def test_several_steps_share_the_display(display):
    with display.progress.step("chunks", unit="bytes", total=1000) as outer:
        display.after(1)
        outer.advance(500)
        with display.progress.step("uploads", unit="bytes"), display.progress.step("files") as inner:
            assert [line.split()[0] for line in display.after(0.1)] == ["chunks"]  # the others have only begun
            inner.advance(7)
            lines = display.after(1)
            assert [line.split()[0] for line in lines] == ["chunks", "uploads", "files"]
            assert lines[2].endswith("7 files, 6/s, 0:01")
        assert [line.split()[0] for line in display.after(0.1)] == ["chunks"]
    assert display.seen() == []


def test_messages_stay_and_the_display_goes_on_below(display):
    with display.progress.step("copying", total=10) as step:
        display.after(1)
        for number in range(3):
            with display.progress.hidden():
                assert display.seen() == [f"message {n}" for n in range(number)]
                display.file.write(f"message {number}\n")
            step.advance(1)
            lines = display.after(1)
            assert len(lines) == number + 2
            assert lines[-1].startswith("copying")
    assert display.seen() == ["message 0", "message 1", "message 2"]


def test_nothing_is_drawn_while_the_display_is_hidden(display):
    with display.progress.step("copying"), display.progress.hidden():
        drawing = threading.Thread(target=display.after, args=(1,), daemon=True)
        drawing.start()
        drawing.join(0.2)
        assert drawing.is_alive()
        assert display.file.getvalue() == ""
    drawing.join(10)


@pytest.mark.parametrize("width", [20, 40, 71, 72, 200])
def test_a_line_never_takes_more_than_a_line(monkeypatch, width):
    display = Display(monkeypatch, width)
    with (
        display.progress.step("a name that is rather long for a step", total=10**15, unit="bytes") as step,
        display.progress.step("b"),
    ):
        step.advance(10**14)
        lines = display.after(1)
    assert len(lines) == 2
    assert all(len(line) <= width for line in lines)


def test_a_step_that_fails_leaves_the_screen_clean(display):
    with pytest.raises(KeyboardInterrupt), display.progress.step("storing"):
        display.after(1)
        raise KeyboardInterrupt
    assert display.seen() == []


def test_its_thread_lives_only_while_there_are_steps():
    before = threading.active_count()
    progress = BarProgress(console=bars._Console(file=io.StringIO(), force_terminal=True))
    for _ in range(3):
        with progress.step("a"), progress.step("b"):
            assert threading.active_count() == before + 1
        assert threading.active_count() == before


def test_the_thread_draws():
    file = io.StringIO()
    clock = Clock()
    drawn = threading.Event()

    class Console(bars._Console):
        def print(self, *arguments, **options):
            super().print(*arguments, **options)
            if "storing" in file.getvalue():
                drawn.set()

    progress = BarProgress(console=Console(file=file, force_terminal=True), clock=clock)
    with progress.step("storing"):
        clock.now += 1
        assert drawn.wait(30)
    assert screen(file.getvalue()) == []


@pytest.mark.parametrize(
    ("total", "unit", "done", "seconds", "text"),
    [
        (None, "files", 1234, 2, "1234 files, 617/s, 0:02"),
        (3000, "files", 1500, 3, "1500 of 3000 files, 500/s, 0:03 left"),
        (None, "steps", 0, 5, "0:05"),
        (10, "steps", 3, 30, "3 of 10 steps, 1:10 left"),
        (0, "bytes", 0, 5, "0 B of 0 B, 0:05"),
        (5_000_000_000, "bytes", 1_000_000, 1, "1.0 MB of 5.0 GB, 1.0 MB/s, 1:23:19 left"),
        (None, "bytes", 2_500_000, 5, "2.5 MB, 500 kB/s, 0:05"),
    ],
)
def test_how_far_a_step_is_in_words(total, unit, done, seconds, text):
    clock = Clock()
    meter = Meter("x", total, unit, clock)
    meter.add(done)
    clock.now += seconds
    meter.sample()
    assert facts(meter) == text
