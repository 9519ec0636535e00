"""What goes wrong with contents: they change while they are read, or are not what their digest says."""

from envkit.errors import Conflict, Damaged
from envkit.model.tree import display_path


class ContentChanged(Conflict):
    """A file has more data than when it was listed, or its data came out of order."""

    def __init__(self, path: bytes) -> None:
        super().__init__(
            f"{display_path(path)} changed while it was read", resolution="stop what writes to it and repeat"
        )
        self.path = path


class DamagedFrame(Damaged):
    """Compressed bytes are not one whole frame of the expected size; `problem` completes "the frame ..."."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the frame {problem}")
        self.problem = problem


class DamagedChunk(Damaged):
    """A chunk cannot be had from its pack; `problem` completes the sentence."""

    def __init__(self, digest: bytes, pack: bytes, problem: str) -> None:
        super().__init__(
            f"chunk {digest.hex()} in pack {pack.hex()} is damaged: {problem}",
            resolution="`envkit verify` shows which environments use it",
        )
        self.digest = digest
        self.pack = pack


class DamagedTree(Damaged):
    """A stored tree is not what its digest or its format promises; `problem` completes the sentence."""

    def __init__(self, digest: str, problem: str) -> None:
        super().__init__(
            f"tree {digest} is damaged: {problem}", resolution="restore this tree from a copy of the store"
        )
        self.digest = digest


class NewerTree(Damaged):
    """A tree was written by a later envkit."""

    def __init__(self, digest: str, found: int, known: int) -> None:
        super().__init__(
            f"tree {digest} has format {found}, this envkit reads format {known}", resolution="update envkit"
        )
        self.digest = digest
        self.format = found
