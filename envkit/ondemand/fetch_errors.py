"""Why something that was asked of the fetcher does not come, besides what the store itself says."""

from envkit.errors import EnvkitError
from envkit.ondemand.log import complain
from envkit.store.errors import StoreError


class FetchTimeout(StoreError):
    """Something did not arrive in time: so many `seconds`.

    `cause` is what the last try met, None where a request never came back.
    """

    def __init__(self, what: str, seconds: float, cause: EnvkitError | None) -> None:
        super().__init__(
            f"{what} did not arrive within {seconds:g} seconds" + (f": {cause.brief}" if cause else ""),
            resolution="check the network and the server of the store, then repeat",
        )
        self.seconds = seconds
        self.cause = cause


class FetchFailed(StoreError):
    """Reading from the store failed in a way that it should not; `reason` completes the sentence."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"cannot fetch {what}: {reason}")


class Forgotten(EnvkitError):
    """What was to be fetched in advance is not wanted any more, and nobody needs it now."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was not fetched: it is not wanted any more")


class FetcherClosed(EnvkitError):
    """The fetcher ends before something was fetched."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} was not fetched: the image server is ending")


def as_known(error: Exception, what: str) -> EnvkitError:
    """Return an error that fetching `what` has met as one to tell; what nobody expected is logged, too."""
    if isinstance(error, EnvkitError):
        return error
    complain(f"fetching {what}: {type(error).__name__}: {error}")
    return FetchFailed(what, f"{type(error).__name__}: {error}")
