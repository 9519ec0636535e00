"""Owns the failures that only the Python API has: tasks that died, and exceptions that came from an environment."""

from envkit.errors import EXIT_UNAVAILABLE, EnvkitError

_MOST_LINES = 20


class CommandMissing(EnvkitError):
    """The command line of envkit cannot be started."""

    exit_code = EXIT_UNAVAILABLE


class JobFailed(EnvkitError):
    """A task ended without a value or an exception: it died, was killed, ran out of time, was lost, or never began.

    :ivar id: of the task; :ivar state: `failed`, `timeout`, `killed` or `lost`; :ivar code: its exit code, or None.
    :ivar stderr: the last lines that it wrote to standard error.
    """

    def __init__(self, id: str, state: str, code: int | None, reason: str, stderr: str) -> None:
        self.id = id
        self.state = state
        self.code = code
        self.reason = reason
        self.stderr = stderr
        because = f": {reason}" if reason else f" with exit code {code}" if state == "failed" and code else ""
        lines = stderr.rstrip().splitlines()[-_MOST_LINES:]
        super().__init__(
            f"task {id} {_ENDS.get(state, state)}{because}",
            details="\n".join(lines) or None,
            resolution=f"`envkit logs {id}` shows all that it printed",
        )

    def __str__(self) -> str:
        # In Python nobody else shows the lines that say why.
        return self.brief if self.details is None else f"{self.brief}\n{self.details}"

    def __reduce__(self) -> tuple[object, ...]:
        return JobFailed, (self.id, self.state, self.code, self.reason, self.stderr)


_ENDS = {
    "done": "ended without a value",
    "failed": "failed",
    "timeout": "ran out of time",
    "killed": "was killed",
    "lost": "was lost with its node",
}


class RemoteError(EnvkitError):
    """The function raised something that cannot come back as itself: this is what is known of it.

    :ivar type_name: with its module; :ivar message: what `str()` made of it; :ivar traceback: as text.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback = traceback
        super().__init__(f"{type_name}: {message}" if message else type_name)

    def __reduce__(self) -> tuple[object, ...]:
        return RemoteError, (self.type_name, self.message, self.traceback)


class RemoteTraceback(Exception):
    """The cause of every exception that a function raised in an environment: where it did, as text."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'
