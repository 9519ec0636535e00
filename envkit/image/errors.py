"""What goes wrong when a tree becomes a view."""

from envkit.errors import Damaged, EnvkitError
from envkit.model.tree import display_path


class BrokenTree(Damaged):
    """A tree breaks a rule of its format; `problem` completes the sentence that begins with the entry."""

    def __init__(self, path: bytes, problem: str) -> None:
        super().__init__(f"tree: entry {display_path(path)} {problem}")
        self.path = path


class ErofsLimit(EnvkitError):
    """A valid tree that EROFS cannot hold; `problem` completes the sentence that begins with the entry."""

    def __init__(self, path: bytes, problem: str) -> None:
        super().__init__(
            f"no EROFS image can hold this layer: {display_path(path)} {problem}",
            resolution="shrink or remove it in a session and save again",
        )
        self.path = path


class CannotApply(EnvkitError):
    """The file system below a directory view refused an entry: no space, no such feature, too many links."""

    def __init__(self, path: bytes, directory: str, error: OSError) -> None:
        super().__init__(f"cannot write {display_path(path)} of a layer to {directory}: {error.strerror}")
        self.path = path
        self.errno = error.errno
