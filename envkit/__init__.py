"""envkit: a virtualenv for the whole filesystem.

In Python:

    future = envkit.call(solve, 3, _env="sci")
    values = envkit.map(solve, range(100), _env="sci", _cores=2).results()

with `Executor`, `Environment`, `Future` and the errors beside them; see docs/python.md.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envkit.client.environment import Environment
    from envkit.client.errors import JobFailed, RemoteError, RemoteTraceback
    from envkit.client.executor import Executor
    from envkit.client.future import Future, Futures
    from envkit.client.submission import call, map
    from envkit.errors import EnvkitError

_PLACES = {
    "call": "client.submission",
    "map": "client.submission",
    "Executor": "client.executor",
    "Future": "client.future",
    "Futures": "client.future",
    "Environment": "client.environment",
    "JobFailed": "client.errors",
    "RemoteError": "client.errors",
    "RemoteTraceback": "client.errors",
    "EnvkitError": "errors",
}

__all__ = [
    "Environment",
    "EnvkitError",
    "Executor",
    "Future",
    "Futures",
    "JobFailed",
    "RemoteError",
    "RemoteTraceback",
    "call",
    "map",
]


def __getattr__(name: str) -> object:
    """Import what is asked for: the command line needs none of it, and would pay for it on every start."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
