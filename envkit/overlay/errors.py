"""What goes wrong around an overlay: options that do not fit, and upper directories that cannot become a layer.

On the path of `envkit run`, so paths come ready for people (see `model.tree.display_path`) as text.
"""

from envkit.errors import EXIT_REFUSED, Conflict, EnvkitError, Unavailable


class StackTooDeep(Unavailable):
    """The kernel cannot take so many layers, or so long names of them, in one mount."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"cannot stack the layers: {problem}", resolution="squash the environment's layers")


class MissingPrivilege(Unavailable):
    """The process may not see all that a scan needs; `missing` names what it lacks."""

    def __init__(self, missing: tuple[str, ...]) -> None:
        super().__init__(
            f"cannot read what changed without {', '.join(missing)}",
            # Unlike file contents, hidden attributes give no error: deleted files would come back.
            details="without it, overlay's marks of what was deleted look as if they were not there",
            resolution="run as root of the host: sudo envkit ...",
        )
        self.missing = missing


class EntryRefused(EnvkitError):
    """Something that no layer may hold; `problem` completes the sentence that begins with the path."""

    exit_code = EXIT_REFUSED

    def __init__(self, rule: str, path: str, problem: str, *, resolution: str) -> None:
        super().__init__(f"{path} {problem} [{rule}]", resolution=resolution)
        self.rule = rule
        self.path = path


class OverlayMark(EntryRefused):
    """An instruction to overlayfs, in a place or of a form that envkit's own overlays never write."""

    def __init__(self, path: str, mark: str) -> None:
        super().__init__(
            "R017", path, f"carries the overlay mark {mark}", resolution="remove it: such marks can uncover lower files"
        )


class PartOfOverlay(EntryRefused):
    """A directory that was given as a root file system is the upper of an overlay."""

    def __init__(self, path: str, mark: str) -> None:
        super().__init__(
            "R017", path, f"is {mark} of an overlay", resolution="give the merged directory, which is complete"
        )


class MountInside(EntryRefused):
    """Another file system, or another part of the same one, is mounted inside the scanned directory."""

    def __init__(self, path: str) -> None:
        super().__init__(
            "R020", path, "is a mount point, so what it shows is not part of the layer", resolution="unmount it first"
        )


class ForeignId(EntryRefused):
    """An owner, or an id in an attribute, that the container could not have made."""

    def __init__(self, path: str, what: str, number: int) -> None:
        super().__init__(
            "R305",
            path,
            f"has the {what} {number}, which is outside the container's range",
            resolution="change it to one of the container's users and groups",
        )
        self.number = number


class BadAttribute(EntryRefused):
    """An extended attribute whose value is not what its format says."""

    def __init__(self, path: str, name: str) -> None:
        super().__init__("R306", path, f"has a malformed {name}", resolution="set it anew, or remove it")


class LimitExceeded(EntryRefused):
    """More of something than a layer can have."""

    def __init__(self, path: str, what: str, limit: int) -> None:
        super().__init__("R307", path, f"has more than {limit:,} {what}", resolution="shrink or remove it")
        self.limit = limit


class ChangedMeanwhile(Conflict):
    """Something was written to during the scan or the reading that follows it."""

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was being read", resolution="stop what writes there, then try again")
        self.path = path


class ScanFailed(EnvkitError):
    """The file system below an upper directory gave an error."""

    def __init__(self, path: str, error: OSError) -> None:
        super().__init__(f"cannot read {path}: {error.strerror}", resolution="check the disk and its file system")
        self.path = path
        self.errno = error.errno
