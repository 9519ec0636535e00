"""The executor: calls are gathered into jobs, and it is what `concurrent.futures` says an executor is."""

import concurrent.futures
import subprocess
import sys
import threading
import time

import pytest
from commandline import CHECKOUT

import envkit
from envkit.client import executor as module

PATIENCE = 120


def double(number):
    return 2 * number


def wait_for(seconds):
    time.sleep(seconds)


def test_calls_in_a_row_are_one_job(fake):
    with envkit.Executor("sci", cores=2) as executor:
        futures = [executor.submit(double, number) for number in range(40)]
        found = {future.result(PATIENCE) for future in concurrent.futures.as_completed(futures)}
    assert found == {2 * number for number in range(40)}
    assert [line[-1] for line in fake.submitted] == [40]
    assert fake.submitted[0][:6] == ["--json", "--call", "-", "-e", "sci", "-c"]


def test_functions_that_come_together_travel_together(fake):
    with envkit.Executor("sci") as executor:
        several = [executor.submit(double, number) for number in range(3)]
        others = [executor.submit(function, 4) for function in (lambda x: x + 1, lambda x: x + 2)]
        assert [future.result(PATIENCE) for future in several + others] == [0, 2, 4, 5, 6]
    assert sorted(line[-1] for line in fake.submitted) == [2, 3]
    assert sorted(line[-2] for line in fake.submitted) == ["<lambda>() and 1 more", "double()"]


def test_map(fake):
    with envkit.Executor("sci") as executor:
        assert list(executor.map(lambda a, b: a * b, range(5), range(5), timeout=PATIENCE)) == [0, 1, 4, 9, 16]
        assert list(executor.map(double, range(7), chunksize=3, timeout=PATIENCE)) == [0, 2, 4, 6, 8, 10, 12]
    assert [line[-2:] for line in fake.submitted] == [["<lambda>()", 5], ["double()", 3]]
    with pytest.raises(ValueError, match="chunksize"):
        envkit.Executor("sci").map(double, [1], chunksize=0)


def test_what_cannot_be_pickled_harms_nobody_else(fake):
    with envkit.Executor("sci") as executor:
        bad = executor.submit(double, threading.Lock())
        good = executor.submit(double, 3)
        assert good.result(PATIENCE) == 6
        with pytest.raises(TypeError, match="pickle"):
            bad.result(PATIENCE)


def test_what_keeps_calls_from_being_submitted_is_their_exception(fake):
    with envkit.Executor("gone") as executor:
        futures = [executor.submit(double, number) for number in range(3)]
    for future in futures:
        with pytest.raises(envkit.EnvkitError, match="there is no environment"):
            future.result(0)


def test_no_calls_after_shutdown(fake):
    executor = envkit.Executor("sci")
    future = executor.submit(double, 1)
    executor.shutdown()
    assert future.done()
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(double, 1)
    executor.shutdown()


def test_shutdown_without_waiting(fake):
    executor = envkit.Executor("sci")
    future = executor.submit(double, 1)
    executor.shutdown(wait=False)
    assert future.result(PATIENCE) == 2


def test_shutdown_cancels_what_does_not_run(fake):
    executor = envkit.Executor("held")
    submitted = executor.submit(double, 1)
    while submitted.id is None:
        time.sleep(0.01)
    gathered = executor.submit(double, 2)
    executor.shutdown(cancel_futures=True)
    assert submitted.cancelled()
    assert fake.kills == ["1"]
    assert gathered.cancelled()


def test_an_executor_needs_an_environment_and_known_options(fake):
    with pytest.raises(TypeError, match="there is no option 'workers'"):
        envkit.Executor("sci", workers=3)
    with pytest.raises(TypeError, match="environment is missing"):
        envkit.Executor("")


def test_what_was_taken_is_submitted_though_the_program_ends(fake):
    program = "import envkit; envkit.Executor('held').submit(abs, -1)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE, cwd=CHECKOUT)
    assert [line[-2:] for line in fake.submitted] == [["abs()", 1]]


def test_many_calls_are_several_jobs(fake, monkeypatch):
    monkeypatch.setattr(module, "_MOST", 3)
    with envkit.Executor("held") as executor:
        futures = [executor.submit(abs, number) for number in range(8)]
        executor.shutdown(wait=False)
        while any(future.id is None for future in futures):
            time.sleep(0.01)
        for future in futures:
            assert future.cancel()
    assert [line[-1] for line in fake.submitted] == [3, 3, 2]


def test_map_lets_go_of_what_nobody_waits_for(fake):
    with envkit.Executor("held") as executor:
        found = executor.map(double, range(20), timeout=0.5)
        with pytest.raises(TimeoutError):
            next(found)
        executor.shutdown(cancel_futures=True)
    assert fake.kills == ["1_0-19"]
