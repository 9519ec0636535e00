"""Owns learning what becomes of tasks: one thread and one `envkit follow` for all futures of this process.

The thread writes the numbers of jobs to the standard input of its child and reads a line of JSON for each change. The
child runs as root behind sudo, so that nobody here could end it: it ends itself at the end of its input, which comes
when this process is gone, and when it has had nothing to look at for a while. If it fails it is started again, and
asked for all that is not over; only if it keeps failing do the futures fail.
"""

import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import IO

from envkit.client.command import failure, start
from envkit.client.errors import JobFailed
from envkit.client.future import Future, ranges
from envkit.errors import EXIT_NOT_FOUND, EXIT_USAGE, EnvkitError

PATIENCE = 600.0
"""Seconds for which it may go on failing before the futures fail."""
_FIRST_PAUSE = 0.5
_LAST_PAUSE = 30.0
_OVER = ("done", "failed", "timeout", "killed", "lost")
_HOPELESS = (EXIT_USAGE, EXIT_NOT_FOUND)


class Follower:
    """Follows futures until they are done. Safe to use from several threads."""

    def __init__(self) -> None:
        self._futures: dict[tuple[int, int], Future] = {}
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._ended = 0

    def follow(self, job: int, futures: Iterable[Future]) -> None:
        """Follow the futures of a job: task 0, task 1 and so on."""
        with self._changed:
            for index, future in enumerate(futures):
                self._futures[job, index] = future
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="envkit-follower", daemon=True)
                self._thread.start()
            self._changed.notify()
            self._ask([job])

    def _ask(self, jobs: Collection[int]) -> None:
        """Tell the child about jobs; if it is on its way out, the next one is told of all."""
        if jobs and self._child is not None and self._child.stdin is not None:
            with suppress(OSError):
                self._child.stdin.write(",".join(ranges(jobs)).encode() + b"\n")
                self._child.stdin.flush()

    def _run(self) -> None:
        failing_since: float | None = None
        pause = _FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._futures)
            ended = self._ended
            began = time.monotonic()
            try:
                self._listen()
            except EnvkitError as error:
                if self._ended != ended:  # some were told before, so it is worth going on
                    failing_since, pause = None, _FIRST_PAUSE
                failing_since = began if failing_since is None else failing_since
                if error.exit_code in _HOPELESS or time.monotonic() - failing_since > PATIENCE:
                    self._give_up(error)
                    failing_since, pause = None, _FIRST_PAUSE
                time.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE)
            else:
                # It ended since it had nothing to do, and did not hear of what came just then.
                failing_since, pause = None, _FIRST_PAUSE

    def _listen(self) -> None:
        """Run one child to its end, and hand on what it says.

        :raises EnvkitError: it failed.
        """
        with tempfile.TemporaryFile() as errors:
            child = start("follow", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors.fileno(), apart=True)
            assert child.stdout is not None and child.stdin is not None  # noqa: S101  # pipes
            try:
                with self._changed:
                    self._child = child
                    self._ask({job for job, _ in self._futures})
                while self._take(child.stdout):
                    pass
            finally:
                with self._changed:
                    self._child = None
                with suppress(OSError):  # it is gone, with what was not read
                    child.stdin.close()
                child.stdout.close()
                code = child.wait()
            errors.seek(0)
            if code:
                raise failure(code, errors.read())

    def _take(self, stream: IO[bytes]) -> bool:
        """Read one line, and the value behind it if there is one; False at the end."""
        line = stream.readline()
        if not line.endswith(b"\n"):
            return False
        try:
            row = json.loads(line)
            job, size = int(row["job"]), row.get("sent")
            data = None if size is None else stream.read(int(size))
            state = str(row["state"])
        except (ValueError, TypeError, KeyError):
            raise EnvkitError(f"envkit follow printed something else than its events: {line[:200]!r}") from None
        if data is not None and len(data) != size:
            return False
        for future in self._meant(job, row.get("index"), over=state in _OVER):
            _tell(future, state, row, data)
        return True

    def _meant(self, job: int, index: object, *, over: bool) -> list[Future]:
        """Return the futures that a row speaks of, one or all of a job; those that are over need no more following."""
        with self._changed:
            places = [place for place in self._futures if place[0] == job] if index is None else [(job, index)]
            found = [(place, self._futures[place]) for place in places if place in self._futures]
            for place, _ in found if over else ():
                del self._futures[place]
                self._ended += 1
        return [future for _, future in found]

    def _give_up(self, error: EnvkitError) -> None:
        with self._changed:
            futures = list(self._futures.values())
            self._futures.clear()
        for future in futures:
            future._broken(error)


def _tell(future: Future, state: str, row: dict[str, object], data: bytes | None) -> None:
    if state not in _OVER:
        future._moved(state)
        return
    error = None
    if not row.get("value"):
        code = row.get("code")
        reason, stderr = str(row.get("error") or ""), str(row.get("stderr") or "")
        error = JobFailed(future.id or str(row["id"]), state, code if isinstance(code, int) else None, reason, stderr)
    future._ended(state, error, data)


_follower = Follower()


def follow(job: int, futures: Iterable[Future]) -> None:
    """Follow the futures of a job that was submitted."""
    _follower.follow(job, futures)


def _after_fork() -> None:
    # Threads do not survive a fork: a child of the user's that makes futures gets a follower of its own.
    global _follower
    _follower = Follower()


os.register_at_fork(after_in_child=_after_fork)
