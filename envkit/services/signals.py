"""Owns signals while a command runs: they reach the command, and before and after it they unwind envkit itself."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from envkit.errors import EnvkitError

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_PATIENCE = 3
"""So many requests to end are passed on; the next one kills."""


class Interrupted(EnvkitError):
    """A signal ended envkit before or after the command's own time."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Keep signals waiting during the block, where their error would leave something behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Forwarder:
    """A context in which signals go to a child process, once there is one.

    `received` counts the ending signals that came, `timed_out` tells whether the limit was reached, `cut_short` which
    signal killed the child before its command ran.
    """

    def __init__(self) -> None:
        self.received = 0
        self.timed_out = False
        self.cut_short: int | None = None
        self._child: int | None = None
        self._command: Callable[[], int | None] = lambda: None
        self._grace = 0.0
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "Forwarder":
        handlers: list[tuple[int, Callable[[int, object], None]]] = [(n, self._forward) for n in _FORWARDED]
        for number, handler in [*handlers, (signal.SIGALRM, self._alarm)]:
            self._previous[number] = signal.signal(number, handler)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal returned

    def forward_to(self, child: int, command: Callable[[], int | None]) -> None:
        """Pass signals on to a command from now on, once it runs; until then those that end kill the child.

        :param child: the process that ends with the command.
        :param command: returns the command's pid, or None while it does not run.
        """
        self._command = command
        self._child = child

    def ended(self) -> None:
        """The child is gone; signals unwind envkit again."""
        self._child = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def limit(self, seconds: float, *, grace: float) -> None:
        """Ask the child to end after `seconds`, and kill it `grace` seconds later."""
        self._grace = grace
        signal.setitimer(signal.ITIMER_REAL, seconds)

    def _send(self, number: int) -> None:
        if self._child is None:
            return
        command = None if number == signal.SIGKILL else self._command()
        if command is not None:
            _kill(command, number)
        elif number in (*_ENDING, signal.SIGKILL):
            # LXC loses signals while it sets the container up, and nothing of the user's runs yet.
            self.cut_short = number
            _kill(self._child, signal.SIGKILL)

    def _forward(self, number: int, _frame: object) -> None:
        if number in _ENDING:
            self.received += 1
            if self._child is None:
                raise Interrupted(number)
        self._send(signal.SIGKILL if self.received > _PATIENCE else number)

    def _alarm(self, _number: int, _frame: object) -> None:
        if self.timed_out:
            self._send(signal.SIGKILL)
            return
        self.timed_out = True
        self._send(signal.SIGTERM)
        signal.setitimer(signal.ITIMER_REAL, self._grace)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
