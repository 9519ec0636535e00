"""Making the objects of a directory store older: its clock is that of its file system."""

import os

MINUTE, HOUR, DAY = 60, 3600, 86_400


def age(store, seconds, *prefixes):
    """Move objects below some prefixes into the past, all of them without a prefix; return how many."""
    count = 0
    for place, _, names in os.walk(store):
        for name in names:
            path = f"{place}/{name}"
            if not prefixes or os.path.relpath(path, store).startswith(prefixes):
                status = os.stat(path)
                os.utime(path, (status.st_atime - seconds, status.st_mtime - seconds))
                count += 1
    return count
