"""Owns the quick answer to "how much changed?" in an upper directory, for people; what a save stores is `scan`'s."""

import os
import stat

from envkit.overlay.walk import open_root, walk


def changed(directory: str) -> tuple[int, int]:
    """Count what an upper directory holds, also while a container writes to it: (files, their bytes).

    Whiteouts, links and special files count as files, directories do not. Bytes are those that `ls` shows, once for
    all hard links of a file.

    :raises ScanFailed: it cannot be read.
    :raises LimitExceeded: there is more in it than can be saved.
    """
    files = size = 0
    linked: set[int] = set()
    root = open_root(directory)
    try:
        for listing in walk(root, at_mount=lambda _: None, live=True):
            for _, status in listing.children:
                if stat.S_ISDIR(status.st_mode):
                    continue
                files += 1
                if not stat.S_ISREG(status.st_mode) or status.st_ino in linked:
                    continue
                size += status.st_size
                if status.st_nlink > 1:
                    linked.add(status.st_ino)
    finally:
        os.close(root)
    return files, size
