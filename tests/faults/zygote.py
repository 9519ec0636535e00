"""A process that has imported envkit and forks a child for each command line: a few milliseconds instead of 300.

Run as a program. It reads one JSON object a line from standard input and answers with two:

    {"argv": [...], "env": {...}, "out": PATH, "err": PATH, "variants": [NAME, ...], "limits": {"NOFILE": 32}, "stop": true}
    {"pid": 123}
    {"code": -9}

`out` and `err` are FIFOs that somebody has open. With `stop` the child stops itself right before envkit begins, for a tracer to be attached: so what it counts are
envkit's own system calls and not those of imports. `variants` names what `variants` changes in it.
"""

import gc
import importlib
import io
import json
import os
import pkgutil
import resource
import signal
import sys

from faults import variants

_LATE = ("concurrent.futures.thread", "sqlite3", "encodings.idna", "difflib", "logging.handlers", "textwrap", "shutil")
"""What envkit imports late; an import that fails halfway would be no fault of envkit."""


def _import_everything():
    import envkit

    for module in pkgutil.walk_packages(envkit.__path__, "envkit."):
        importlib.import_module(module.name)
    for name in _LATE:
        importlib.import_module(name)


def _child(order):
    for number, path in ((1, order["out"]), (2, order["err"])):
        descriptor = os.open(path, os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(order["env"])
    sys.stdin, sys.stdout, sys.stderr = (
        open(0, closefd=False, encoding="utf-8"),
        open(1, "w", closefd=False, encoding="utf-8"),
        open(2, "w", closefd=False, encoding="utf-8", buffering=1),
    )
    _reread_the_environment()
    for name, value in order["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (value, value))
    for name in order["variants"]:
        variants.apply(name)
    if order.get("stop"):
        os.kill(os.getpid(), signal.SIGSTOP)
    sys.argv = ["envkit", *order["argv"]]
    from envkit.__main__ import main

    main()


def _reread_the_environment():
    """What was read from the variables when the module was imported has to be read again."""
    from envkit.drivers import crash

    wanted, _, count = os.environ.get("ENVKIT_CRASH", "").partition("@")
    crash._wanted, crash._left = wanted, int(count or 1)


def _run(order):
    """Fork; in the child, end as an interpreter does: standard streams flushed, uncaught exceptions shown."""
    pid = os.fork()
    if pid:
        return pid
    code = 98
    try:
        _child(order)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except BaseException:  # noqa: BLE001  # shown as the interpreter shows it
        sys.excepthook(*sys.exc_info())
        code = 1
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            # As the interpreter does it at its end.
            sys.stderr.write(f"Exception ignored in: {error}\n")
            code = 120
        os._exit(code & 0xFF)


def main():
    _import_everything()
    gc.collect()
    gc.freeze()
    answers = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), line_buffering=True)
    answers.write("{}\n")
    for line in sys.stdin:
        order = json.loads(line)
        pid = _run(order)
        answers.write(json.dumps({"pid": pid}) + "\n")
        _, status = os.waitpid(pid, 0)
        answers.write(json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n")


if __name__ == "__main__":
    main()
