"""Owns the options of overlay mounts: which kernel features are on, and how directory names get through mount(2).

Pure; mounting is `drivers.mount`'s. On the path of `envkit run`.
"""

import os
from collections.abc import Sequence

from envkit.overlay.errors import StackTooDeep

# mount(2) copies one page of option text, its terminating NUL included.
MAX_OPTIONS = 4095
# OVL_MAX_STACK of the kernel.
MAX_LOWERS = 500

_FEATURES = (
    # "off" writes no redirects but still follows those in its layers, where the kernel was built to
    # (redirect_always_follow, the default), so a smuggled one uncovers what an upper layer deleted. "nofollow" does
    # neither. Renaming a lower directory gives EXDEV, mv(1) copies, and the upper is complete by itself.
    "redirect_dir=nofollow",
    # With metacopy, chmod of a lower file copies only its inode: the upper would hold empty files.
    "metacopy=off",
    # The index keeps hard links together over copy-up through file handles of the lower layers, which differ on the
    # next node; it also refuses to mount an upper over other layers than it began with.
    "index=off",
    # All files of the stack get one st_dev. Without it files of lower layers have another than the directories they
    # lie in, and whatever stays on one file system (du -x, rsync -x) passes them over.
    "xino=on",
)


def overlay_options(
    lowers: Sequence[str], *, upper: str | None = None, work: str | None = None, session: bool = False
) -> str:
    """Return the option text of an overlay mount.

    :param lowers: directories, the topmost first; names relative to the working directory keep the text short.
    :param upper: the writable directory, with `work`, an empty one on the same file system; None: read-only.
    :param session: the upper is kept and saved; otherwise it is thrown away after the mount.
    :raises StackTooDeep: the kernel cannot take so much.
    """
    if not lowers or not all(lowers) or (upper is None) != (work is None):
        raise ValueError("an overlay needs lower directories, and upper and work together")
    if len(lowers) > MAX_LOWERS:
        raise StackTooDeep(f"{len(lowers)} layers are more than the {MAX_LOWERS} that overlayfs takes")
    parts = ["lowerdir=" + ":".join(map(escape, lowers))]
    if upper is not None and work is not None:
        parts += [f"upperdir={escape(upper)}", f"workdir={escape(work)}"]
        if not session:
            # Nobody reads this upper after a crash, so neither a job's fsync nor unmounting has to wait for the disk.
            parts.append("volatile")
    options = ",".join((*parts, *_FEATURES))
    size = len(os.fsencode(options))
    if size > MAX_OPTIONS:
        raise StackTooDeep(f"mount options of {size:,} bytes are more than the {MAX_OPTIONS:,} that mount(2) takes")
    return options


def escape(directory: str) -> str:
    """Return a directory's name as overlayfs reads it back: "," ends an option, ":" a lower directory.

    The kernel removes backslashes from upper and work directories too.
    """
    if "\0" in directory:
        raise ValueError("a directory's name holds NUL")
    return directory.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")
