import threading

import pytest

from envkit.cli.meter import WINDOW, Meter


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_nothing_is_known_in_the_beginning(clock):
    meter = Meter("x", 100, "files", clock)
    assert (meter.done, meter.seconds, meter.rate, meter.average, meter.left) == (0, 0, 0, 0, None)


def test_the_rate_looks_back_for_a_while(clock):
    meter = Meter("x", 1000, "files", clock)
    for second in range(40):
        clock.now += 1
        meter.add(20 if second < 20 else 5)
        meter.sample()
    assert meter.rate == 5
    assert meter.average == 500 / 40
    assert meter.left == 100
    assert meter.seconds == 40


def test_after_a_long_pause_the_rate_is_that_of_the_pause(clock):
    meter = Meter("x", None, "bytes", clock)
    meter.add(1000)
    clock.now += 1
    meter.sample()
    clock.now += 3 * WINDOW
    meter.add(60)
    meter.sample()
    assert meter.rate == 2
    assert meter.left is None


def test_more_than_all_takes_no_longer(clock):
    meter = Meter("x", 10, "files", clock)
    meter.add(20)
    clock.now += 1
    meter.sample()
    assert meter.left == 0


def test_threads_count_together(clock):
    meter = Meter("x", None, "files", clock)
    threads = [threading.Thread(target=lambda: [meter.add(1) for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.done == 80_000
