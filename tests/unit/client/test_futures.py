"""Calls as futures: what `concurrent.futures` promises, and what only a job has."""

import asyncio
import concurrent.futures
import os
import pickle
import sys
import time

import pytest

import envkit
from envkit.client import follower
from envkit.client.future import Future, _named
from envkit.errors import InvalidInput, NotFound, Unavailable

PATIENCE = 60


def slowly(value, seconds=0.2):
    time.sleep(seconds)
    return value


def double(number):
    return 2 * number


def test_a_call(fake):
    future = envkit.call(double, 21, _env="sci", _cores=2, _memory="4G", _label="night", _volumes=["/data:/data:ro"])
    assert future.result(PATIENCE) == 42
    assert future.exception() is None
    assert (future.id, future.status, future.done(), future.cancelled()) == ("1", "done", True, False)
    words = ["--json", "--call", "-", "-e", "sci", "-c", "2", "--memory", "4G", "-l", "night", "-v", "/data:/data:ro"]
    assert fake.submitted == [[*words, "double()", 1]]


def test_keyword_arguments_are_the_functions(fake):
    assert envkit.call(dict, a=1, b=2, _env="sci").result(PATIENCE) == {"a": 1, "b": 2}


def test_an_option_that_there_is_none_of(fake):
    with pytest.raises(TypeError, match="there is no option 'core': they are env, cores"):
        envkit.call(double, 1, _env="sci", _core=2)
    with pytest.raises(TypeError, match="an environment is missing"):
        envkit.call(double, 1)
    assert fake.submitted == []


def test_what_submit_refuses_is_raised_with_its_hint(fake):
    with pytest.raises(NotFound, match="there is no environment lab/gone") as caught:
        envkit.call(double, 1, _env="gone")
    assert caught.value.exit_code == 3
    assert caught.value.resolution == "see `envkit list`"
    assert caught.value.__notes__ == ["hint: see `envkit list`"]


def test_a_command_that_is_not_there(monkeypatch):
    monkeypatch.setenv("ENVKIT_COMMAND", "/nonexistent/envkit")
    with pytest.raises(envkit.EnvkitError, match="cannot start /nonexistent/envkit"):
        envkit.call(double, 1, _env="sci")


def test_sudo_that_asks_for_a_password_is_explained(monkeypatch):
    monkeypatch.setenv("ENVKIT_COMMAND", "sh -c 'echo sudo: a password is required >&2; exit 1'")
    with pytest.raises(Unavailable, match="sudo: a password is required") as caught:
        envkit.Environment("sci").info()
    assert "sudoers" in caught.value.resolution


def test_map_is_one_job(fake):
    futures = envkit.map(lambda a, b: a + b, range(10), range(100), _env="sci", _cores=3)
    assert futures.results(PATIENCE) == [2 * number for number in range(10)]
    assert [future.id for future in futures] == [f"1_{index}" for index in range(10)]
    assert futures.status == {"done": 10}
    assert [future.result() for future in futures[2:4]] == [4, 6]
    assert [line[-1] for line in fake.submitted] == [10]


def test_map_of_nothing(fake):
    assert envkit.map(double, [], _env="sci").results() == []
    assert fake.submitted == []


def test_map_takes_no_arguments_by_keyword(fake):
    with pytest.raises(TypeError, match="no argument 'cores'"):
        envkit.map(double, [1], cores=2, _env="sci")


def test_as_completed_and_wait(fake):
    futures = envkit.map(slowly, [1, 2, 3], _env="sci")
    assert sorted(future.result() for future in concurrent.futures.as_completed(futures, PATIENCE)) == [1, 2, 3]
    assert not concurrent.futures.wait(futures, 0).not_done


def test_a_callback_has_the_result(fake):
    seen = []
    future = envkit.call(double, 4, _env="sci")
    future.add_done_callback(lambda done: seen.append(done.result()))
    future.result(PATIENCE)
    concurrent.futures.wait([future], PATIENCE)
    envkit.call(double, 1, _env="sci").result(PATIENCE)  # of the same thread, so after it
    assert seen == [8]


def test_asyncio_awaits_it(fake):
    async def awaited():
        return await asyncio.wrap_future(envkit.call(double, 5, _env="sci"))

    assert asyncio.run(awaited()) == 10


def test_a_result_that_is_not_there_in_time(fake):
    future = envkit.call(slowly, 1, seconds=600, _env="sci")
    with pytest.raises(TimeoutError):
        future.result(0.05)
    futures = envkit.Futures([future])
    with pytest.raises(TimeoutError, match="1 of 1 calls are not over"):
        futures.results(0.05)
    futures.kill()
    with pytest.raises(envkit.JobFailed):
        future.result(PATIENCE)


def test_what_is_printed(fake):
    def talk():
        sys.stdout.write("to out\n")
        sys.stderr.write("to err\n")

    future = envkit.call(talk, _env="sci")
    future.result(PATIENCE)
    assert (future.stdout, future.stderr) == ("to out\n", "to err\n")


def test_a_task_that_dies_shows_its_last_words(fake):
    def die():
        sys.stderr.write("no more\n")
        sys.stderr.flush()
        os._exit(3)

    future = envkit.call(die, _env="sci")
    with pytest.raises(envkit.JobFailed, match="task 1 failed with exit code 3\nno more") as caught:
        future.result(PATIENCE)
    assert (caught.value.state, caught.value.code, caught.value.stderr) == ("failed", 3, "no more\n")
    assert future.exception() is caught.value
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.id) == (str(caught.value), "1")


def test_the_first_failure_of_several(fake):
    with pytest.raises(ZeroDivisionError) as caught:
        envkit.map(lambda x: 1 / x, [1, 0, 2], _env="sci").results(PATIENCE)
    assert isinstance(caught.value.__cause__, envkit.RemoteTraceback)


def test_killing_what_runs(fake):
    future = envkit.call(slowly, 1, seconds=600, _env="sci")
    while not future.running():
        time.sleep(0.01)
    assert not future.cancel()
    future.kill()
    with pytest.raises(envkit.JobFailed, match="was killed"):
        future.result(PATIENCE)
    assert future.status == "killed"
    future.kill()
    assert fake.kills == ["1"]


def test_cancelling_what_waits(fake):
    futures = envkit.map(double, range(4), _env="held")
    assert futures[1].cancel()
    assert futures[1].cancel()
    assert fake.kills == ["1_1"]
    assert list(concurrent.futures.as_completed([futures[1]], 0)) == [futures[1]]
    with pytest.raises(concurrent.futures.CancelledError):
        futures[1].result()
    futures.kill()
    assert fake.kills[0] == "1_1"
    assert fake.kills[1:] in (["1_0", "1_2-3"], ["1_0-3"])  # whether it is known by then that the first is over
    with pytest.raises(envkit.JobFailed):
        futures[3].result(PATIENCE)


def test_a_large_value_is_fetched_when_it_is_asked_for(fake):
    future = envkit.call(bytes, 5_000_000, _env="sci")
    concurrent.futures.wait([future], PATIENCE)
    assert future.result() == bytes(5_000_000)
    assert future.result() is future.result()


def test_a_large_value_that_is_gone(fake):
    future = envkit.call(bytes, 5_000_000, _env="sci")
    concurrent.futures.wait([future], PATIENCE)
    path = fake.place / "1" / "0" / "value"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(envkit.EnvkitError, match="FileNotFoundError"):
        future.result()
    path.write_bytes(data)
    assert len(future.result()) == 5_000_000


def test_following_survives_failures(fake):
    fake.fail(5, 1, 5)
    assert envkit.call(double, 3, _env="sci").result(PATIENCE) == 6


def test_following_gives_up_where_there_is_no_hope(fake):
    fake.fail(2)
    with pytest.raises(InvalidInput, match="the queue does not answer"):
        envkit.call(double, 3, _env="sci").result(PATIENCE)
    assert envkit.call(double, 4, _env="sci").result(PATIENCE) == 8


def test_following_gives_up_after_long(fake, monkeypatch):
    monkeypatch.setattr(follower, "PATIENCE", 0.2)
    fake.fail(*[5] * 100)
    with pytest.raises(Unavailable):
        envkit.call(double, 3, _env="sci").result(PATIENCE)


def test_one_child_follows_all(fake):
    futures = [envkit.call(slowly, number, _env="sci") for number in range(5)]
    assert [future.result(PATIENCE) for future in futures] == [0, 1, 2, 3, 4]
    threads = [thread.name for thread in __import__("threading").enumerate()]
    assert threads.count("envkit-follower") >= 1


def test_a_forked_child_follows_its_own(fake):
    before = envkit.call(double, 1, _env="sci")
    assert before.result(PATIENCE) == 2
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = 0 if envkit.call(double, 2, _env="sci").result(PATIENCE) == 4 else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_job_depends_on_futures(fake):
    first = envkit.map(double, [1, 2], _env="sci")
    second = envkit.call(double, 3, _env="sci", _depends_on=[*first, 7])
    assert second.result(PATIENCE) == 6
    words = fake.submitted[1]
    assert words[words.index("--depends-on") + 1] == "1,7"
    with pytest.raises(ValueError, match="not submitted"):
        envkit.call(double, 3, _env="sci", _depends_on=Future())


def test_ranges():
    assert _named(["1", "2_5", "2_0", "2_1", "2_2", "3_7"]) == ["1", "2_0-2", "2_5", "3_7"]


def test_a_large_value_that_is_cut_short(fake, monkeypatch):
    future = envkit.call(bytes, 5_000_000, _env="sci")
    concurrent.futures.wait([future], PATIENCE)
    command = os.environ["ENVKIT_COMMAND"]
    monkeypatch.setenv("ENVKIT_COMMAND", f"sh -c '{command} \"$@\" | head -c 1000000; echo it broke >&2; exit 7' sh")
    with pytest.raises(envkit.EnvkitError, match="it broke"):
        future.result()
    monkeypatch.setenv("ENVKIT_COMMAND", command)
    assert future.result() == bytes(5_000_000)


def test_a_child_that_keeps_failing_after_some_words(fake):
    """What it has told counts; the rest is asked for again."""
    futures = envkit.map(slowly, range(6), [0.1 * number for number in range(6)], _env="talks")
    assert futures.results(PATIENCE) == list(range(6))
