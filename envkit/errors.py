"""Owns what a failure is: one sentence, facts behind it, and what to do; and the exit codes.

Every failure that a user can cause or meet is an :class:`EnvkitError`. Subclasses live in the package that
raises them (``store/errors.py`` ...), take typed facts and write their own text. Only ``cli`` prints or exits.
"""

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_CONFLICT = 4
EXIT_UNAVAILABLE = 5
EXIT_DAMAGED = 6
EXIT_STORE = 7
EXIT_REFUSED = 8
# `envkit run` answers for the command that it runs, so its own failures use the codes of env(1) and timeout(1).
EXIT_TIMEOUT = 124
EXIT_RUN_FAILED = 125
EXIT_CANNOT_EXECUTE = 126
EXIT_COMMAND_NOT_FOUND = 127


class EnvkitError(Exception):
    """A failure that is told to the user in one line, without a traceback.

    :param brief: one sentence, lower case, no final period: what failed, where.
    :param details: further lines, or None.
    :param resolution: what the user can do, one sentence, or None.
    """

    exit_code = EXIT_FAILURE

    def __init__(self, brief: str, *, details: str | None = None, resolution: str | None = None) -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        return self.brief


class InvalidInput(EnvkitError):
    """A value that the user gave cannot be used."""

    exit_code = EXIT_USAGE


class NotFound(EnvkitError):
    """Something that the user named does not exist."""

    exit_code = EXIT_NOT_FOUND


class Conflict(EnvkitError):
    """The request contradicts what is there: a name is taken, a session is open, changes are not saved."""

    exit_code = EXIT_CONFLICT


class Unavailable(EnvkitError):
    """The machine or the user lacks something: a privilege, a kernel feature, a program, space."""

    exit_code = EXIT_UNAVAILABLE


class Damaged(EnvkitError):
    """Stored data is not what its name or its format promises."""

    exit_code = EXIT_DAMAGED
