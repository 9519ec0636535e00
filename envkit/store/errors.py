"""What goes wrong between envkit and a store. OSError and a backend's own exceptions end here."""

from envkit.errors import EXIT_STORE, Conflict, Damaged, EnvkitError, InvalidInput
from envkit.model.ids import EnvName


def reason(error: OSError) -> str:
    """Return the kernel's reason in its own words."""
    return error.strerror or str(error)


class StoreError(EnvkitError):
    """The store failed, as opposed to what is stored in it."""

    exit_code = EXIT_STORE


class MovedOn(Conflict):
    """An environment got a new record between looking at its history and writing what builds on that."""

    def __init__(self, env: EnvName) -> None:
        super().__init__(f"{env} was changed by somebody else meanwhile", resolution="look at it, then try again")


class ObjectNotFound(StoreError):
    """A store has no object of this key."""

    def __init__(self, url: str, key: str) -> None:
        super().__init__(f"the store {url} has no object {key}")
        self.key = key


class ObjectTooLarge(Damaged):
    """An object is larger than anything that its kind may be, so it is not read."""

    def __init__(self, url: str, key: str, size: int, limit: int) -> None:
        super().__init__(f"{key} in the store {url} has {size} bytes, more than the {limit} that it may have")
        self.key = key


class ObjectTruncated(Damaged):
    """An object ends before the bytes that were asked for, or is not as long as what was written under its key."""

    def __init__(self, url: str, key: str, size: int, expected: int) -> None:
        super().__init__(
            f"{key} in the store {url} has {size} bytes instead of {expected}",
            resolution="restore this object from a copy of the store",
        )
        self.key = key


class PacksMissing(Damaged):
    """Packs that stored data relies on are not there, or too short; at most ten of `digests` are listed.

    Who reused their chunks on a hint forgets them (`ChunkIndex.forget`), so that repeating stores them again.
    """

    def __init__(self, url: str, digests: list[str]) -> None:
        shown = [*digests[:10], *([f"and {len(digests) - 10} more"] if len(digests) > 10 else [])]
        super().__init__(
            f"the store {url} lost {len(digests)} of the packs that are needed",
            details="\n".join(shown),
            resolution="save again from a session that still has the files, and what is missing is stored again",
        )
        self.digests = digests


class StoreUnreadable(StoreError):
    """A store, or an object of it, cannot be read; `reason` completes "cannot read the store URL: "."""

    def __init__(self, url: str, reason: str, *, resolution: str | None = None) -> None:
        super().__init__(
            f"cannot read the store {url}: {reason}",
            resolution=resolution or "check the path, its permissions, and whether its filesystem is mounted",
        )
        self.url = url


class StoreUnwritable(StoreError):
    """An object cannot be written; `reason` completes "cannot write to the store URL: "."""

    def __init__(self, url: str, reason: str, *, resolution: str | None = None) -> None:
        super().__init__(
            f"cannot write to the store {url}: {reason}",
            resolution=resolution or "check the permissions and the health of its filesystem; nothing was saved",
        )
        self.url = url


class StoreFull(StoreError):
    """The disk or the quota below a store is used up."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"the store {url} is full: {reason}",
            resolution="free some space or raise the quota, then repeat; what was stored before is intact",
        )
        self.url = url


class NewerStore(StoreError):
    """The store was written by a later envkit."""

    def __init__(self, url: str, found: int, known: int) -> None:
        super().__init__(
            f"the store {url} has format {found}, this envkit reads format {known}", resolution="update envkit"
        )
        self.format = found


class UnsupportedStore(InvalidInput):
    """The URL names a kind of store that this version cannot use."""

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        super().__init__(
            f"stores of the kind {scheme}:// are not supported by this version: {url}",
            resolution="give the path of a directory, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX",
        )
        self.url = url


class StoreUnreachable(StoreError):
    """The server of a store does not answer, or not in time; `reason` completes "cannot reach the store URL: "."""

    def __init__(self, url: str, reason: str, *, resolution: str) -> None:
        super().__init__(f"cannot reach the store {url}: {reason}", resolution=resolution)
        self.url = url


class StoreDenied(StoreError):
    """The server of a store does not let us in; `reason` completes "the store URL refuses access: "."""

    def __init__(self, url: str, reason: str, *, resolution: str) -> None:
        super().__init__(f"the store {url} refuses access: {reason}", resolution=resolution)
        self.url = url


class StoreUnsuitable(StoreError):
    """A place breaks a promise that every store has to keep, as a probe showed; `broken` says which one."""

    def __init__(self, url: str, broken: str) -> None:
        super().__init__(
            f"{url} cannot be a store: {broken}",
            details="what was saved there could be lost or changed without anybody knowing",
            resolution="use a directory, or a server that keeps to this promise of S3",
        )
        self.url = url
        self.broken = broken


class UnusableCredentials(InvalidInput):
    """The keys for a store cannot be found or read; the text never has a key in it."""
