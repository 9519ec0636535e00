"""Several requests at once: results in order, errors out, few in memory."""

import itertools
import threading

import pytest

from envkit.store.parallel import each


@pytest.mark.parametrize("requests", [1, 2, 8, None])
def test_results_come_in_order(requests):
    assert list(each(lambda n: n * 2, range(100), requests=requests)) == list(range(0, 200, 2))
    assert list(each(str, [], requests=requests)) == []


def test_requests_run_at_the_same_time():
    together = threading.Barrier(4, timeout=30)
    assert list(each(lambda _: together.wait() < 4, range(4), requests=4)) == [True] * 4


def test_the_first_error_ends_it():
    def work(number):
        if number == 3:
            raise ValueError("three")
        return number

    found = []
    with pytest.raises(ValueError, match="three"):
        found.extend(each(work, range(1000), requests=4))
    assert threading.active_count() == 1 or not [t for t in threading.enumerate() if t.name.startswith("envkit-store")]


def test_items_are_taken_as_results_are(monkeypatch):
    taken = []

    def items():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = each(lambda n: n, items(), requests=2)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(taken) < 20
    results.close()
