"""Owns writing payloads: functions and arguments, pickled so that a Python without the caller's modules can read them.

Functions of `__main__`, lambdas and closures go by value; so do those of modules that lie below the current directory
or beside the script, since no environment has these. Whatever else a function refers to, the environment must have.

The form is that of `model/payload.py`. The part that all tasks share is the pickled function and, behind it, a zip
archive: Python runs it as it is, with `remote.py` as its `__main__` and the cloudpickle of this side in its path.
"""

import functools
import io
import os
import sys
import sysconfig
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any, BinaryIO

import cloudpickle

from envkit.client import remote
from envkit.model.payload import Index, index_to_bytes, shown_name

PROTOCOL = 5
Function = Callable[..., Any]
Task = tuple[Function | None, Sequence[Any], Mapping[str, Any]]
"""One call: a function of its own or None for the shared one, arguments, and keyword arguments."""
_INSTALLED = ("site-packages", "dist-packages")
_OURS = ("__main__", "envkit", "cloudpickle")
_registering = threading.Lock()


def write_payload(
    file: BinaryIO, function: Function | None, tasks: Iterable[Task], *, name: str, interpreter: str | None = None
) -> Index:
    """Write a payload; `file` is empty. What is large goes straight from where it is into the file.

    :param function: the one that all tasks share.
    :raises Exception: something cannot be pickled: whatever its type raises then.
    """
    lengths = []
    with _by_value(_local_modules()):
        _dump(file, function)
        file.write(_program())
        lengths.append(file.tell())
        for own, args, kwargs in tasks:
            start = file.tell()
            _dump(file, (own, tuple(args), dict(kwargs)))
            lengths.append(file.tell() - start)
    major, minor, micro = sys.version_info[:3]
    index = Index(python=(major, minor, micro), name=shown_name(name), interpreter=interpreter, parts=tuple(lengths))
    file.write(index_to_bytes(index))
    file.flush()
    return index


def name_of(function: Function) -> str:
    """Return how to call a function in lists: `solve()`."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{name.rpartition('<locals>.')[2]}()"


def _dump(file: BinaryIO, value: object) -> None:
    # A pickler for each part: what one of them remembers, the others do not have.
    cloudpickle.Pickler(file, protocol=PROTOCOL).dump(value)


@functools.cache
def _program() -> bytes:
    """Return the archive that runs a call."""
    files = {"__main__.py": remote.__file__}
    package = os.path.dirname(cloudpickle.__file__)
    files |= {f"cloudpickle/{name}": f"{package}/{name}" for name in os.listdir(package) if name.endswith(".py")}
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:  # stored: a Python without zlib can read it
        for name in sorted(files):
            with open(files[name], "rb") as source:
                zipped.writestr(zipfile.ZipInfo(name), source.read())  # of 1980: the same bytes each time
    return archive.getvalue()


def _local_modules() -> list[ModuleType]:
    """Return the modules that no environment can have: those below the current directory or beside the script."""
    places = [os.path.realpath(os.getcwd())]
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is not None:
        places.append(os.path.dirname(os.path.realpath(script)))
    library = os.path.realpath(sysconfig.get_path("stdlib"))
    found = []
    for name, module in list(sys.modules.items()):
        if "." in name or name in _OURS or not isinstance(module, ModuleType) or module.__name__ != name:
            continue
        path = _file(module)
        if path is None or _is_below(path, library) or any(part in _INSTALLED for part in path.split("/")):
            continue
        if any(_is_below(path, place) for place in places):
            found.append(module)
    return found


def _file(module: ModuleType) -> str | None:
    path = getattr(module, "__file__", None)
    if path is None:  # a package without __init__.py
        path = next(iter(getattr(module, "__path__", ())), None)
    return os.path.realpath(path) if isinstance(path, str) else None


def _is_below(path: str, place: str) -> bool:
    return path == place or path.startswith(place.rstrip("/") + "/")


@contextmanager
def _by_value(modules: Iterable[ModuleType]) -> Iterator[None]:
    """Let cloudpickle pickle what is of some modules by value, for the duration of the block."""
    with _registering:
        before = cloudpickle.list_registry_pickle_by_value()
        added = [module for module in modules if module.__name__ not in before]
        for module in added:
            cloudpickle.register_pickle_by_value(module)
        try:
            yield
        finally:
            for module in added:
                cloudpickle.unregister_pickle_by_value(module)
