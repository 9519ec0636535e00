"""Payloads: what a client writes, and what another Python makes of it, which has none of the client's modules."""

import ast
import functools
import glob
import importlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading

import pytest

from envkit.client import remote
from envkit.client.errors import RemoteError, RemoteTraceback
from envkit.client.payload import name_of, write_payload
from envkit.client.value import read_value
from envkit.errors import Damaged, InvalidInput
from envkit.model.payload import MAX_PART, TAIL, Index, index_from_bytes, index_size, index_to_bytes


def runs(python):
    done = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info[:2] >= (3, 8))"], capture_output=True, check=False
    )
    return done.stdout == b"True\n"


INSTALLED = glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python3.[0-9]*[0-9]"))
ON_PATH = [path for minor in range(8, 15) if (path := shutil.which(f"python3.{minor}"))]
PYTHONS = sorted(python for python in {sys.executable, *INSTALLED, *ON_PATH} if runs(python))


def double(number):
    return 2 * number


class Solver:
    def __init__(self, factor):
        self.factor = factor

    def run(self, number):
        return self.factor * number


class Strange(Exception):
    """One that cannot be unpickled: its constructor wants more than what it hands to its base."""

    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


def written(function, *tasks, **how):
    file = io.BytesIO()
    index = write_payload(file, function, tasks, **{"name": "f()", **how})
    data = file.getvalue()
    parts, start = [], 0
    for length in index.parts:
        parts.append(data[start : start + length])
        start += length
    return index, parts, data[start:]


class Ran:
    """What a task has left: exit code, output, and its value as bytes."""

    def __init__(self, place, function, arguments, python=sys.executable, **more):
        self.place = place
        os.makedirs(f"{place}/call")
        for name, data in (("function", function), ("arguments", arguments)):
            with open(f"{place}/call/{name}", "wb") as file:
                file.write(data)
        argv = [python, f"{place}/call/function", "f()"]
        environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(argv, cwd="/", env=environment, capture_output=True, timeout=120, check=False, **more)
        self.code, self.out, self.err = done.returncode, done.stdout.decode(), done.stderr.decode()
        path = f"{place}/value"
        self.value = None
        if os.path.exists(path):
            with open(path, "rb") as file:
                self.value = file.read()

    def get(self):
        return read_value(io.BytesIO(self.value)).get()


@pytest.fixture
def called(tmp_path):
    """A function that calls another one in a fresh Python and returns what came of it."""

    def call(function, *args, **kwargs):
        _, (shared, own), _ = written(function, (None, args, kwargs))
        return Ran(tmp_path / "task", shared, own)

    return call


def test_the_index_is_read_back():
    index, parts, rest = written(double, (None, (1,), {}), (None, (2,), {}), interpreter="/opt/conda/bin/python")
    assert index_size(rest[-TAIL.size :]) == len(rest) - TAIL.size
    assert index_from_bytes(rest[: -TAIL.size]) == index
    assert index.python == sys.version_info[:3]
    assert index.interpreter == "/opt/conda/bin/python"
    assert len(parts) == 3


def test_the_same_call_gives_the_same_bytes():
    assert written(double, (None, (1,), {})) == written(double, (None, (1,), {}))


@pytest.mark.parametrize("tail", [b"", b"x" * TAIL.size, TAIL.pack(1 << 40, b"envkitPY")])
def test_what_is_no_payload_is_refused(tail):
    with pytest.raises(InvalidInput, match="is no call of a Python function"):
        index_size(tail)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "has format 2"),
        ({"python": [3, 11]}, "cannot be read"),
        ({"python": [3, 11, -1]}, "cannot be read"),
        ({"python": [3, True, 1]}, "cannot be read"),
        ({"parts": [1]}, "has 1 to"),
        ({"parts": [1, MAX_PART + 1]}, "larger than 4 GiB"),
        ({"parts": [1, 1 << 70]}, "cannot be read"),
        ({"parts": "12"}, "cannot be read"),
        ({"name": "a\nb"}, "cannot be read"),
        ({"name": "a" * 300}, "cannot be read"),
        ({"interpreter": 3}, "cannot be read"),
    ],
)
def test_an_index_that_is_not_one_is_refused(change, message):
    good = index_to_bytes(Index(python=(3, 11, 2), name="f()", interpreter=None, parts=(5, 6)))[: -TAIL.size]
    assert index_from_bytes(good).parts == (5, 6)
    with pytest.raises(InvalidInput, match=message):
        index_from_bytes(json.dumps(json.loads(good) | change).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_an_index_that_is_no_json_is_refused(data):
    with pytest.raises(InvalidInput):
        index_from_bytes(data)


@pytest.mark.parametrize("python", PYTHONS)
def test_every_python_here_runs_a_call(python, tmp_path):
    """A builtin goes by name, so that other versions than this one can read it."""
    _, (shared, own), _ = written(sum, (None, ([1, 2, 3],), {}))
    assert Ran(tmp_path / "task", shared, own, python=python).get() == 6


def test_a_function_of_a_module_that_is_nowhere_else(tmp_path, monkeypatch):
    (tmp_path / "lab").mkdir()
    (tmp_path / "lab" / "__init__.py").write_text("FACTOR = 3\n")
    (tmp_path / "lab" / "model.py").write_text("from lab import FACTOR\ndef scaled(x):\n    return FACTOR * x\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    scaled = importlib.import_module("lab.model").scaled
    try:
        _, (shared, own), _ = written(scaled, (None, (5,), {}))
        elsewhere = Ran(tmp_path / "elsewhere", shared, own)
        assert elsewhere.code == 1
        with pytest.raises(ModuleNotFoundError, match="lab"):
            elsewhere.get()
        monkeypatch.chdir(tmp_path)
        _, (shared, own), _ = written(scaled, (None, (5,), {}))
        assert Ran(tmp_path / "below", shared, own).get() == 15
    finally:
        for name in ("lab", "lab.model"):
            del sys.modules[name]


def test_a_closure_and_a_lambda(called):
    factor = 7
    assert called(lambda x, *, y: factor * x + y, 6, y=1).get() == 43


def test_a_method_of_an_object(called, monkeypatch):
    monkeypatch.setattr(Solver, "__module__", "__main__")
    assert called(Solver(3).run, 4).get() == 12


def test_a_value_that_is_a_function(called):
    assert called(lambda: lambda x: x + 1).get()(1) == 2


def test_what_is_printed_is_left_alone(called):
    def talk():
        sys.stdout.write("to out\n")
        sys.stderr.write("to err\n")

    ran = called(talk)
    assert (ran.code, ran.out, ran.err) == (0, "to out\n", "to err\n")


def test_an_exception_comes_back_with_its_traceback(called):
    def broken():
        raise ValueError("no such number")

    ran = called(broken)
    assert ran.code == 1
    with pytest.raises(ValueError, match="no such number") as caught:
        ran.get()
    cause = caught.value.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "in broken" in cause.text
    assert "_called" not in cause.text and "remote.py" not in cause.text and "__main__.py" not in cause.text


def test_an_exception_of_ones_own_is_the_same_class_again(called):
    class Mine(Exception):
        pass

    def broken():
        raise Mine("x")

    with pytest.raises(Mine):
        called(broken).get()


def test_an_exception_that_cannot_be_unpickled_is_told(called, monkeypatch):
    monkeypatch.setattr(Strange, "__module__", "__main__")

    def broken():
        raise Strange("a", "b")

    with pytest.raises(RemoteError, match="Strange: a") as caught:
        called(broken).get()
    assert caught.value.message == "a"
    assert "in broken" in caught.value.traceback
    assert pickle.loads(pickle.dumps(caught.value)).type_name == caught.value.type_name


def test_an_exception_that_cannot_be_pickled_is_told(called):
    def broken():
        error = ValueError("it holds a lock")
        error.lock = threading.Lock()
        raise error

    with pytest.raises(RemoteError, match=r"builtins\.ValueError: it holds a lock"):
        called(broken).get()


def test_an_end_of_the_process_does_not_end_this_one(called):
    with pytest.raises(RemoteError, match="SystemExit: 5"):
        called(sys.exit, 5).get()


def test_a_value_that_cannot_be_pickled_says_so(called):
    with pytest.raises(TypeError, match="the value that was returned cannot be sent back: cannot pickle"):
        called(lambda: threading.Lock()).get()


def test_a_recursion_without_end(called):
    def deeper(n):
        return deeper(n + 1)

    with pytest.raises(RecursionError):
        called(deeper, 0).get()


def test_a_value_nested_too_deep(called):
    def nested():
        value = []
        for _ in range(100_000):
            value = [value]
        return value

    with pytest.raises((RecursionError, pickle.PicklingError), match="cannot be sent back"):
        called(nested).get()


def test_a_value_with_no_place_to_go(tmp_path):
    _, (shared, own), _ = written(double, (None, (1,), {}))
    (tmp_path / "task" / "value.part").mkdir(parents=True)
    ran = Ran(tmp_path / "task", shared, own)
    assert (ran.code, ran.value) == (2, None)
    assert "IsADirectoryError" in ran.err


def test_functions_of_their_own_stand_in_for_the_shared_one(tmp_path):
    _, (shared, first, second), _ = written(None, (abs, (-1,), {}), (len, ("abc",), {}))
    assert Ran(tmp_path / "a", shared, first).get() == 1
    assert Ran(tmp_path / "b", shared, second).get() == 3


def test_the_environment_need_not_have_cloudpickle_and_a_broken_one_does_not_matter(tmp_path):
    (tmp_path / "cloudpickle.py").write_text("raise ImportError('the one of the environment')\n")
    _, (shared, own), _ = written(lambda: 1, (None, (), {}))
    os.makedirs(tmp_path / "task" / "call")
    for name, data in (("function", shared), ("arguments", own)):
        (tmp_path / "task" / "call" / name).write_bytes(data)
    environment = {"PYTHONPATH": str(tmp_path)}
    argv = [sys.executable, "-S", tmp_path / "task" / "call" / "function"]
    subprocess.run(argv, env=environment, check=True, capture_output=True)
    assert read_value(io.BytesIO((tmp_path / "task" / "value").read_bytes())).get() == 1


@pytest.mark.parametrize("data", [b"", b"\n", b"[]\n", b"{}\n", b'{"format": 1, "kind": "error"}\n', b"\xff\n"])
def test_what_is_no_value_is_refused(data):
    with pytest.raises(Damaged, match="is no value"):
        read_value(io.BytesIO(data))


def test_a_value_of_another_format_is_refused():
    with pytest.raises(Damaged, match="another format"):
        read_value(io.BytesIO(b'{"format": 2, "kind": "value"}\n'))


def test_a_value_of_a_class_that_is_not_here_says_why():
    data = b'{"format": 1, "kind": "value"}\n' + b"cnowhere\nThing\n."
    with pytest.raises(ModuleNotFoundError) as caught:
        read_value(io.BytesIO(data)).get()
    assert "has to be here, too" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (double, "double()"),
        (functools.partial(double, 1), "double()"),
        (lambda: 1, "<lambda>()"),
        (Solver(1).run, "Solver.run()"),
        (Solver(1), "Solver()"),
    ],
)
def test_the_name_of_a_function(function, name):
    assert name_of(function) == name


def test_what_runs_in_environments_is_written_for_older_pythons_too():
    with open(remote.__file__, encoding="utf-8") as file:
        source = file.read()
    ast.parse(source, feature_version=(3, 8))
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n case 1: pass\n", feature_version=(3, 8))


def test_modules_that_are_installed_go_by_name(tmp_path, monkeypatch):
    """Also where they are installed below the current directory, in a virtual environment there."""
    place = tmp_path / "venv" / "lib" / "python3" / "site-packages"
    place.mkdir(parents=True)
    (place / "installed.py").write_text("def f():\n    return 1\n")
    (tmp_path / "mine.py").write_text("def f():\n    return 2\n")
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    installed, mine = (importlib.import_module(name).f for name in ("installed", "mine"))
    try:
        for function, by_name in ((installed, True), (mine, False)):
            _, (shared, own), _ = written(function, (None, (), {}))
            ran = Ran(tmp_path / function.__module__, shared, own)
            if by_name:
                with pytest.raises(ModuleNotFoundError):
                    ran.get()
            else:
                assert ran.get() == 2
    finally:
        for name in ("installed", "mine"):
            del sys.modules[name]
