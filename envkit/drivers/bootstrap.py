"""Owns building a root filesystem from a recipe: mmdebstrap's argv, what it gets from the host, and what it says.

What makes a base of the result is `newroot`'s; which archives it is built from, `aptsources`'.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from envkit.drivers import aptsources, hostapt, newroot
from envkit.drivers.aptsources import Source
from envkit.drivers.hostconfig import proxy_variables
from envkit.drivers.process import find_program, run
from envkit.errors import Conflict, EnvkitError, Unavailable
from envkit.model.recipe import Recipe

_SECONDS = 3600
_LAST_LINES = 12
_POLL_SECONDS = 0.2
# Debian 12 gets its merged /usr by a package that needs Perl, 50 MB, unless the links are there beforehand.
_MERGED_USR_PACKAGE = "usr-is-merged"
_MERGED_USR_HOOKS = "/usr/share/mmdebstrap/hooks/maybe-merged-usr"
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


class BuildFailed(EnvkitError):
    """mmdebstrap could not build a root: its last lines are the details, without passwords of URLs."""

    def __init__(self, name: str, code: int, log: str) -> None:
        reason = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        tail = "\n".join(_CREDENTIALS.sub("://", log).strip().splitlines()[-_LAST_LINES:])
        super().__init__(
            f"building the base {name}: mmdebstrap {reason}",
            details=tail or None,
            resolution="check that the archives in /etc/apt can be reached: `apt-get update`",
        )


def build_root(
    recipe: Recipe,
    target: str,
    progress: Callable[[str], None] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    sources: Iterable[Source] | None = None,
) -> None:
    """Build a root filesystem in a directory, with real root's ownership; takes half a minute and more.

    :param target: a directory that does not exist yet, or is empty; after an error the caller removes it.
    :param progress: called from another thread with what is being done, some ten times.
    :param environ: where proxies are looked up; None is this process's environment.
    :param sources: Debian archives to use rather than the host's.
    :raises Unavailable: mmdebstrap or Debian's keys are not installed.
    :raises Conflict: the target has something in it.
    :raises BuildFailed: mmdebstrap failed.
    """
    import tempfile  # late: 10 ms

    _check(target)
    started = time.time()
    environ = os.environ if environ is None else environ
    host = aptsources.read_host() if sources is None else sources
    archives = aptsources.debian_sources(host, recipe.suite)
    with tempfile.TemporaryDirectory(prefix="envkit-build-") as scratch:
        # Files, not arguments: both may have passwords in URLs, and everybody can read a process's arguments.
        _write(f"{scratch}/apt.conf", _apt_conf(environ))
        _write(f"{scratch}/archives.list", aptsources.one_line(archives).encode())
        _write(log := f"{scratch}/log", b"")
        with _following(log, progress):
            variables, _ = proxy_variables(environ, loopback=True)
            if "SOURCE_DATE_EPOCH" in environ:
                variables["SOURCE_DATE_EPOCH"] = environ["SOURCE_DATE_EPOCH"]
            result = run(argv(recipe, target, scratch), env=variables, timeout=_SECONDS, check=False)
        if result.code != 0:
            raise BuildFailed(recipe.name, result.code, _read(log) or result.stderr.decode("utf-8", "replace"))
    newroot.finish(target, sources=aptsources.deb822(archives), started=started, added=recipe.files)


def argv(recipe: Recipe, target: str, scratch: str) -> list[str]:
    """Return the command line: mmdebstrap in namespaces of its own, which dies with this process.

    As root it would mount /proc and /sys below the target for all to see, and leave them there when it is killed.

    :param scratch: the directory that has `apt.conf` and `archives.list`, and gets `log`.
    """
    hooks = [f"--hook-directory={_MERGED_USR_HOOKS}"] if _MERGED_USR_PACKAGE in recipe.packages else []
    return [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"),
        *("mmdebstrap", "--mode=root", "--format=directory", f"--variant={recipe.variant}"),
        *([f"--include={','.join(recipe.packages)}"] if recipe.packages else []),
        f"--aptopt={scratch}/apt.conf",
        "--dpkgopt=force-unsafe-io",  # a build that a crash cuts short is thrown away
        f"--logfile={scratch}/log",
        *hooks,
        *("--", recipe.suite, target, f"{scratch}/archives.list"),
    ]


def _check(target: str) -> None:
    """Refuse what cannot work before anything is downloaded."""
    if find_program("mmdebstrap") is None:
        raise Unavailable("the program mmdebstrap is not installed", resolution="run `apt install mmdebstrap`")
    if not os.path.exists(aptsources.KEYRING):
        raise Unavailable(
            f"Debian's archive keys are not installed: {aptsources.KEYRING} is missing",
            resolution="run `apt install debian-archive-keyring`",
        )
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise Conflict(f"cannot build in {target}: it is not an empty directory")


def _apt_conf(environ: Mapping[str, str]) -> bytes:
    """Return the host's network settings of APT; the build runs on the host, so loopback and paths are as they are."""
    dump = hostapt.dump(environ)
    return hostapt.render(hostapt.acquire_settings(dump, loopback=True), ca=hostapt.ca_file(dump)) or b""


@contextlib.contextmanager
def _following(log: str, progress: Callable[[str], None] | None) -> Iterator[None]:
    """Pass on the steps that mmdebstrap writes to its log while the block runs."""
    import threading  # late: 10 ms

    if progress is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_follow, args=(log, progress, ended.wait), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _follow(log: str, progress: Callable[[str], None], wait: Callable[[float], bool]) -> None:
    """Call `progress` for each complete line of the form `I: step...`, until `wait` says that no more will come."""
    rest = ""
    with open(log, encoding="utf-8", errors="replace") as file:
        last = False
        while True:
            *lines, rest = (rest + file.read()).split("\n")
            for line in lines:
                if line.startswith("I: "):
                    progress(line.removeprefix("I: ").rstrip("."))
            if last:
                return
            last = wait(_POLL_SECONDS)


def _write(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        file.write(data)


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()
