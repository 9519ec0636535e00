"""Owns the use case `cp`: files into and out of a session, as tar streams between two tar(1) processes.

The one inside runs in the session's container, so whatever links and devices are in there, it can only reach what
the session can. The one outside runs as the invoking user with GNU tar's own defences: no absolute names, no `..`,
links made last.
"""

import contextlib
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence

from envkit.drivers import lxc, process
from envkit.drivers.files import io_error
from envkit.drivers.process import Result
from envkit.errors import EnvkitError, InvalidInput, NotFound
from envkit.model.ids import EnvRef
from envkit.model.interruption import remains
from envkit.model.session import Session
from envkit.node import session as sessions
from envkit.node.account import Account, invoking_user
from envkit.services.context import Context, require_root
from envkit.services.sessions import attach_argv, start

_REMOTE = re.compile(r"((?:[A-Za-z0-9_][\w.-]*/)?[a-z0-9][a-z0-9._-]*):(.*)", re.DOTALL)

_UNPACK = """set -e
case $1 in */) into=yes;; *) into=no;; esac
if [ $into = yes ] || [ -d "$1" ] || [ "$2" -gt 1 ]; then
    mkdir -p -- "$1"
    exec tar -x -f - -C "$1"
fi
parent=$(dirname -- "$1")
mkdir -p -- "$parent"
fresh=$(mktemp -d "$parent/.envkit-cp.XXXXXXXX")
trap 'rm -rf -- "$fresh"' EXIT
tar -x -f - -C "$fresh"
mv -T -- "$fresh/$3" "$1"
"""


_MISSING = 44
_PACK = f"""cd -- "$1" 2>/dev/null && {{ [ -e "./$2" ] || [ -L "./$2" ]; }} || exit {_MISSING}
exec tar -c -f - "./$2"
"""


class CopyFailed(EnvkitError):
    """One of the two tar processes failed."""

    def __init__(self, what: str, output: str) -> None:
        super().__init__(f"cannot copy {what}", details=output.strip() or None)


def copy(context: Context, sources: Sequence[str], destination: str) -> None:
    """Copy like `cp -a`, where one side is `NAME:PATH` in a session.

    :raises InvalidInput: not exactly one side is in a session, or sources are in several.
    :raises NotFound: there is no such session or file.
    """
    require_root("copying to and from a session")
    target = _remote(destination)
    remotes = [_remote(source) for source in sources]
    if target is not None and not any(remotes):
        _copy_in(context, sources, target)
    elif target is None and all(remotes):
        _copy_out(context, [remote for remote in remotes if remote], destination)
    else:
        raise InvalidInput("exactly one side must be in a session, as NAME:PATH")


def copy_in(context: Context, name: str, source: str, target: str) -> None:
    """Copy one file or directory of the host to a path in a session."""
    _copy_in(context, [source], (name, target))


def _remote(text: str) -> tuple[str, str] | None:
    match = _REMOTE.fullmatch(text)
    return (match[1], match[2] or ".") if match else None


def _open(context: Context, name: str) -> Session:
    session = sessions.load_session(context.paths, EnvRef.parse(name, owner=context.owner).env)
    start(context, session)
    return session


def _inside(path: str) -> str:
    """Return a path in a session as an absolute one; others are relative to root's home."""
    return path if path.startswith("/") else f"/root/{path}"


def _copy_in(context: Context, sources: Sequence[str], target: tuple[str, str]) -> None:
    session = _open(context, target[0])
    names = []
    pack = ["tar", "-c", "-f", "-", "--owner=root:0", "--group=root:0", "--numeric-owner", "--no-unquote"]
    for source in sources:
        if not os.path.lexists(source):
            raise NotFound(f"{source} does not exist")
        parent, name = os.path.split(os.path.abspath(source))
        names.append(name)
        pack += ["-C", parent, f"./{name}"]
    path = _inside(target[1])
    unpack = attach_argv(context, session, ["/bin/sh", "-c", _UNPACK, "sh", path, str(len(sources)), names[0]])
    with remains(lambda: f"{session.env}:{path} may have a part of it; copy it again"):
        first, second = _pipe(pack, unpack)
    _check(first, second, what=f"into {session.env}:{path}")


def _copy_out(context: Context, remotes: Sequence[tuple[str, str]], destination: str) -> None:
    names = {name for name, _ in remotes}
    if len(names) > 1:
        raise InvalidInput("all sources must be in one session")
    session = _open(context, names.pop())
    paths = [os.path.normpath(_inside(path)) for _, path in remotes]
    account = invoking_user()
    into = destination.endswith("/") or os.path.isdir(destination) or len(paths) > 1
    parent = destination if into else os.path.dirname(os.path.abspath(destination))
    try:
        if into:
            with _as_user(account):
                os.makedirs(parent, exist_ok=True)
        elif not os.path.isdir(parent):
            raise NotFound(f"the directory {parent} does not exist")
        with remains(lambda: f"{parent} may have a part of it; copy it again" if into else "nothing was copied"):
            for path in paths:
                if into:
                    _fetch(context, session, path, parent, account)
                else:
                    _fetch_as(context, session, path, destination, parent, account)
    except OSError as error:
        raise io_error(f"copy to {destination}", error) from error


def _fetch_as(context: Context, session: Session, path: str, destination: str, parent: str, account: Account) -> None:
    """Copy one file or directory out of a session, to a name of its own."""
    fresh = f"{parent}/.envkit-cp.{secrets.token_hex(4)}"
    with _as_user(account):
        os.mkdir(fresh, 0o700)
    try:
        _fetch(context, session, path, fresh, account)
        with _as_user(account):
            os.rename(f"{fresh}/{os.path.basename(path)}", destination)
    finally:
        process.run(["rm", "-rf", "--", fresh], preexec=_become(account), check=False)


def _fetch(context: Context, session: Session, path: str, directory: str, account: Account) -> None:
    """Copy one file or directory out of a session into a directory of the host."""
    parent, name = os.path.split(path)
    # Only what was asked for is taken out of the archive, whatever else the session's tar puts in; owners and setuid
    # bits of a session mean nothing on the host.
    unpack = ["tar", "-x", "-f", "-", "--no-same-owner", "--no-same-permissions", "--no-unquote", "-C", directory]
    first, second = _pipe(
        attach_argv(context, session, ["/bin/sh", "-c", _PACK, "sh", parent, name]),
        [*unpack, f"./{name}"],
        account=account,
    )
    if first.code == _MISSING:
        raise NotFound(f"{session.env} has no {path}")
    _check(first, second, what=f"out of {session.env}")


def _pipe(producer: list[str], consumer: list[str], *, account: Account | None = None) -> tuple[Result, Result]:
    """Run two programs with a pipe between them, the second as `account`; return what both did."""
    environment = lxc.environment() | {"PATH": process.SYSTEM_PATH}
    become = None if account is None else _become(account)
    return process.pipeline(producer, consumer, env=environment, second_preexec=become)


def _check(first: Result, second: Result, *, what: str) -> None:
    if first.code or second.code:
        output = (first.stderr + second.stderr).decode("utf-8", "replace")
        raise CopyFailed(what, output)


def _become(account: Account) -> Callable[[], None]:
    """Return a function that gives a new process the invoking user's ids for good."""

    def become() -> None:
        if account.uid:
            os.setgroups(list(account.groups))
            os.setgid(account.gid)
            os.setuid(account.uid)

    return become


@contextlib.contextmanager
def _as_user(account: Account) -> Iterator[None]:
    """Touch files as the invoking user for a while, so that root's power is not lent to a path they chose."""
    try:
        if account.uid:
            os.setegid(account.gid)
            os.seteuid(account.uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
