"""Owns when a layer was last used on this node: the time of a file in its place. On the path of `envkit run`."""

import contextlib
import os

USED = "used"


def touch(directory: str) -> None:
    """Note that a layer is used now; a place that cannot be written, or is not there, is left as it is."""
    path = f"{directory}/{USED}"
    try:
        os.utime(path)
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except OSError:
        pass


def last_used(directory: str) -> float:
    """Return when a layer was last used, or made where nobody has said that; 0 where there is nothing."""
    for path in (f"{directory}/{USED}", directory):
        with contextlib.suppress(OSError):
            return os.stat(path, follow_symlinks=False).st_mtime
    return 0.0
