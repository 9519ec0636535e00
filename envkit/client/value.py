"""Owns reading what a function returned or raised.

Unpickling runs code that whoever wrote the bytes has chosen. So bytes come here only from `envkit`, which gives them
out after it has found the seal of the submission on them (`store/orders.py`); never straight from a store.
"""

import json
import pickle
from typing import Any, BinaryIO

from envkit.client.errors import RemoteError, RemoteTraceback
from envkit.errors import Damaged

_FORMAT = 1
_MAX_HEAD = 32 << 20


class Value:
    """What a call came to: a value, or an exception that `get` raises."""

    def __init__(self, value: Any, error: BaseException | None) -> None:
        self._value = value
        self.error = error

    def get(self) -> Any:
        """Return the value.

        :raises BaseException: what the function raised.
        """
        if self.error is not None:
            raise self.error
        return self._value


def read_value(file: BinaryIO) -> Value:
    """Read a value from a file or pipe, without more than one copy of it in memory.

    :raises Damaged: it is none.
    """
    head = file.readline(_MAX_HEAD)
    try:
        facts = json.loads(head)
        kind, version = facts["kind"], facts["format"]
        told = tuple(str(facts[name]) for name in ("type", "message", "traceback")) if kind == "error" else ()
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise Damaged("what a call has left is no value") from error
    if version != _FORMAT or kind not in ("value", "error"):
        raise Damaged("what a call has left has another format than this envkit reads", resolution="update envkit")
    if kind == "value":
        return _returned(file)
    type_name, message, traceback = told
    raised = _raised(file) if facts.get("pickled") is True else None
    raised = raised or RemoteError(type_name, message, traceback)
    raised.__cause__ = RemoteTraceback(traceback)
    return Value(None, raised)


def _returned(file: BinaryIO) -> Value:
    try:
        return Value(pickle.load(file), None)
    except Exception as error:  # noqa: BLE001  # __setstate__ of the user's may raise anything
        # The class of what was returned is in the environment, but not here: the user's own to see and to solve.
        error.add_note("This happened while the value of a call was unpickled: what it is made of has to be here, too.")
        return Value(None, error)


def _raised(file: BinaryIO) -> Exception | None:
    try:
        error = pickle.load(file)
    except Exception:  # noqa: BLE001  # a class that is not here, a constructor of another form, anything
        return None
    return error if isinstance(error, Exception) else None
