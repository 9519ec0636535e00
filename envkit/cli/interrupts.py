"""Owns what signals do to a command: the first unwinds it as Ctrl-C does, the next ends it at once.

`run` has its own ways while a job runs, see `services/signals.py`. Imported on every start: nothing slow in here.
"""

import _thread
import os
import signal
import sys
import time

from envkit.model.interruption import Stopped, note_achievements

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_ONE_REQUEST = 0.3
"""Seconds within which a signal is the same request again: timeout(1) and some shells send it twice."""
_AGAIN = 0.01


class Interrupts:
    """The handlers of one process; they do nothing in its children but end them."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._thread = _thread.get_ident()
        self._asked: float | None = None
        self._over = False

    def install(self) -> None:
        """Handle signals from now on, but those that the caller had switched off, as nohup(1) does."""
        for number in _ENDING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        note_achievements()
        sys.unraisablehook = self._not_raised
        sys.excepthook = _silent_for_interrupts

    def ignore(self) -> None:
        """Let the process exit in peace: its work is done."""
        self._over = True

    def _handle(self, number: int, _frame: object) -> None:
        if os.getpid() != self._pid:
            os._exit(128 + number)
        if self._over:
            return
        now = time.monotonic()
        if self._asked is None:
            self._asked = now
            raise Stopped(number)
        if now - self._asked >= _ONE_REQUEST:
            erase = b"\r\033[2K" if os.isatty(2) else b""
            os.write(2, erase + b"ended at once; the next command cleans up what is left\n")
            os._exit(128 + number)

    def _not_raised(self, lost: "sys.UnraisableHookArgs") -> None:
        """Ask again where the request came while Python could not raise it, as in the end of an object's life."""
        stop = lost.exc_value
        if not isinstance(stop, Stopped):
            sys.__unraisablehook__(lost)
            return
        self._asked = None
        _thread.start_new_thread(self._ask, (stop.number,))

    def _ask(self, number: int) -> None:
        time.sleep(_AGAIN)  # by then Python is out of where it cannot raise
        signal.pthread_kill(self._thread, number)


def _silent_for_interrupts(kind: type[BaseException], error: BaseException, traceback: "TracebackType | None") -> None:
    """Show the traceback of a bug, but none where a request to end came in the last moments of this process."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)


def interrupt_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that a signal ended."""
    return 128 + (stop.number if isinstance(stop, Stopped) else signal.SIGINT)
