"""Owns what runs inside an environment for a call: it calls the function and leaves the value, or the exception.

It travels in the payload, as `__main__.py` of the archive that `call/function` is, together with the cloudpickle that
pickled the function: so both sides always fit, and the environment needs nothing but Python 3.8 or newer. Before the
archive `call/function` has the pickled function, which zip files allow. `call/arguments` has the arguments of this
task. `value`, beside `call/`, is one line of JSON and then the pickled value or exception.

Exit code 0: there is a value; 1: there is an exception; 2: not even that could be written.
"""

import json
import os
import pickle
import sys
import traceback

_FORMAT = 1
_MAX_TEXT = 1 << 20


def main(function_path: str) -> int:
    """Run the call that lies beside this program, and return the exit code."""
    place = os.path.dirname(os.path.abspath(function_path))
    value = os.path.join(os.path.dirname(place), "value")
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # somebody closed it
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # so that `logs -f` shows it at once
    try:
        result = _called(function_path, os.path.join(place, "arguments"))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever it is, it has to be told
        return _leave_exception(value, error, own_frames=2)
    try:
        _write(value, {"kind": "value"}, [result])
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # __reduce__ of the user's may raise anything
        return _leave_exception(
            value, _explained(error, "the value that was returned cannot be sent back"), own_frames=1
        )
    return 0


def _called(function_path: str, arguments_path: str) -> object:
    import cloudpickle  # noqa: F401  # the one in the archive, before the function asks for another

    with open(function_path, "rb") as file:
        shared = pickle.load(file)
    with open(arguments_path, "rb") as file:
        own, args, kwargs = pickle.load(file)
    return (shared if own is None else own)(*args, **kwargs)


def _leave_exception(path: str, error: BaseException, *, own_frames: int) -> int:
    """Leave an exception; so many frames at the beginning of its traceback are this program's."""
    frames = error.__traceback__
    for _ in range(own_frames):
        frames = frames.tb_next if frames is not None and frames.tb_next is not None else frames
    facts = {
        "kind": "error",
        "type": "{}.{}".format(type(error).__module__, type(error).__qualname__),
        "message": _text(error),
        "traceback": "".join(traceback.format_exception(type(error), error, frames))[-_MAX_TEXT:],
    }
    # What ends a process, as SystemExit does, must not end the one that asks for the value.
    if isinstance(error, Exception):
        try:
            _write(path, dict(facts, pickled=True), [error])
        except Exception:  # it cannot be pickled, for whatever reason
            pass
        else:
            return 1
    try:
        _write(path, dict(facts, pickled=False), [])
    except OSError:
        traceback.print_exception(type(error), error, frames)
        traceback.print_exc()
        return 2
    return 1


def _write(path: str, facts: "dict[str, object]", pickled: "list[object]") -> None:
    """Write a line of facts and what is to be pickled, if anything: all of it or nothing."""
    partial = path + ".part"
    try:
        with open(partial, "wb") as file:
            file.write(json.dumps(dict(facts, format=_FORMAT)).encode() + b"\n")
            for value in pickled:
                import cloudpickle

                cloudpickle.Pickler(file, protocol=5).dump(value)
        os.replace(partial, path)
    except BaseException:
        if os.path.exists(partial):
            os.unlink(partial)
        raise


def _explained(error: BaseException, sentence: str) -> BaseException:
    """Return an exception of the same type with a sentence before its message, where its type allows that."""
    try:
        told = type(error)("{}: {}".format(sentence, error))
    except Exception:  # an exception of the user's, with a constructor of its own
        return error
    return told.with_traceback(error.__traceback__)


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_MAX_TEXT]
    except Exception:  # a __str__ of the user's
        return "<{} that cannot be printed>".format(type(error).__qualname__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[0]))
