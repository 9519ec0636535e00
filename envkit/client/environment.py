"""Owns environments as Python sees them: create, work in the session, save, run, compare."""

import subprocess
from collections.abc import Iterable
from typing import Any

from envkit.client.command import ask, failure, finished
from envkit.client.options import Options

Completed = subprocess.CompletedProcess[str]
_NOT_RUN = (126, 127)
_OWN_FAILURE = 125


class Environment:
    """An environment by name, as in `sci`, `alice/sci` or `sci@3`; whether it exists shows when it is used.

    Every method raises EnvkitError where the command line would fail.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"envkit.Environment({self.name!r})"

    def create(
        self, *, base: str | None = None, origin: str | None = None, description: str = "", script: str | None = None
    ) -> "Environment":
        """Open a session over a base, or over the version of an environment that `origin` names; return self.

        :param script: path of a script to run in it.
        """
        words = [*_option("--base", base), *_option("--from", origin), *_option("-d", description or None)]
        _done("create", self.name, *words, *(["--script", script] if script else ["--no-shell"]))
        return self

    def exec(self, *command: str, workdir: str | None = None, check: bool = True) -> Completed:
        """Run a command in the open session, as its root; return its output and exit code.

        :raises CalledProcessError: it ended with another code than 0, unless `check` is off.
        """
        return _completed(command, "exec", *_option("-w", workdir), self.name, "--", *command, check=check)

    def save(self, message: str = "", *, close: bool = False) -> dict[str, Any]:
        """Store the session's changes as a new version; return its description, as `envkit save --json` prints it."""
        answer = ask("save", self.name, "--json", *_option("-m", message or None), *(["--close"] if close else []))
        return dict(answer)

    def close(self, *, discard: bool = False) -> None:
        """End the session; changes that are not saved are lost only with `discard`."""
        _done("close", self.name, *(["--discard"] if discard else []))

    def run(self, *command: str, check: bool = True, timeout: float | None = None, **options: Any) -> Completed:
        """Run a command in the environment on this machine; return its output and exit code.

        Options are `cores`, `memory`, `net`, `workdir`, `volumes` and `variables`, as for `envkit.call`.

        :raises CalledProcessError: it ended with another code than 0, unless `check` is off.
        """
        words = Options({"env": self.name, **options}).words()
        words += _option("--timeout", None if timeout is None else str(timeout))
        return _completed(command, "run", *words, "--", *command, check=check)

    def info(self) -> dict[str, Any]:
        """Return what is known of the version."""
        return dict(ask("info", self.name, "--json"))

    def versions(self) -> list[dict[str, Any]]:
        """Return its versions, the newest first."""
        return list(ask("log", self.name.partition("@")[0], "--json"))

    def diff(self, a: int | str, b: int | str | None = None) -> dict[str, Any]:
        """Return what leads from version `a` to version `b`; without `b`, what `a` changed."""
        name = self.name.partition("@")[0]
        return dict(ask("diff", *(f"{name}@{version}" for version in (a, b) if version is not None), "--json"))

    def delete(self) -> None:
        """Delete it, or the version that its name says; `envkit undelete` brings it back."""
        _done("delete", self.name, "--yes")


def _option(flag: str, value: str | None) -> list[str]:
    return [] if value is None else [flag, value]


def _done(*words: str) -> None:
    code, _, errors = finished(*words)
    if code:
        raise failure(code, errors) from None


def _completed(command: Iterable[str], *words: str, check: bool) -> Completed:
    code, output, errors = finished(*words)
    # A command may end with the codes that say that it could not begin; but then the first words are its own.
    if code == _OWN_FAILURE or (code in _NOT_RUN and errors.startswith(b"error: ")):
        raise failure(code, errors) from None
    done = Completed(list(command), code, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))
    if check:
        done.check_returncode()
    return done
