"""What goes wrong at the border to the kernel and to other programs."""

from envkit.errors import EnvkitError, Unavailable


class KernelRefused(EnvkitError):
    """A system call failed that should not: says which, on what, and the kernel's reason."""

    def __init__(self, action: str, error: OSError, *, resolution: str | None = None) -> None:
        super().__init__(f"cannot {action}: {error.strerror}", resolution=resolution)
        self.errno = error.errno


class ProgramMissing(Unavailable):
    """A program that envkit needs is not installed."""

    def __init__(self, program: str) -> None:
        super().__init__(
            f"the program {program} is not installed", resolution="run `envkit doctor` to see all that is missing"
        )
        self.program = program


class ProgramFailed(EnvkitError):
    """A program ended with an error, or was ended by a signal (negative code)."""

    def __init__(self, argv: tuple[str, ...], code: int, output: str) -> None:
        reason = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        tail = "\n".join(output.strip().splitlines()[-12:])
        super().__init__(f"{argv[0]} {reason}", details=tail or None)
        self.argv = argv
        self.code = code


class ProgramTimedOut(EnvkitError):
    """A program did not end in the time it was given, and was killed."""

    def __init__(self, argv: tuple[str, ...], seconds: float) -> None:
        super().__init__(f"{argv[0]} did not end within {seconds:g} s and was killed")
        self.argv = argv
