"""Owns what every use case starts from: configuration, paths, the store, and who is asking."""

import contextlib
import os
from collections.abc import Callable, Iterator

from envkit.config.model import Config
from envkit.drivers.caller import find_caller
from envkit.errors import Unavailable
from envkit.model.ids import EnvName, EnvRef, check_owner
from envkit.model.paths import Paths
from envkit.model.progress import Progress
from envkit.node.account import invoking_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envkit.store.base import Store
    from envkit.store.open import Foreseen
    from envkit.store.settings import StoreSettings


class Context:
    """One invocation of envkit; opens the store when it is first asked for."""

    def __init__(self, config: Config, progress: Progress | None = None) -> None:
        self.config = config
        self.progress = progress or Progress()
        self.paths = Paths.at(config.root)
        self._store: Store | None = None
        self._foreseen: Foreseen | None = None

    def fetching(self, fetch: str) -> "Context":
        """Return the same invocation with another word for when the content of layers is fetched; see `Config`."""
        return Context(self.config.replace(fetch=fetch), self.progress)

    @property
    def store(self) -> "Store":
        """The configured store."""
        if self._store is None:
            from envkit.store.open import open_store

            # Only the default store is made where there is none: a mistyped --store must not become an empty store.
            if self.config.store:
                self._store = open_store(
                    self.config.store,
                    settings=self.store_settings,
                    offline=self.config.fetch == "offline",
                    foreseen=self._foreseen,
                )
            else:
                self._store = open_store(self.paths.store, create=os.geteuid() == 0)
        return self._store

    def foresee(self, env: EnvName, meanwhile: Callable[[], object]) -> None:
        """Say, before the store is first used, what it will be asked of, and what can be done meanwhile."""
        from envkit.store.layout import versions_prefix
        from envkit.store.open import Foreseen

        self._foreseen = Foreseen(prefix=versions_prefix(env), meanwhile=meanwhile)

    @property
    def store_settings(self) -> "StoreSettings":
        """What the configuration says of stores in buckets, the configured one and others."""
        from envkit.store.settings import StoreSettings

        return StoreSettings(
            endpoint=self.config.endpoint,
            region=self.config.region,
            profile=self.config.aws_profile,
            caller=find_caller(os.environ),
            copies=self.paths.records if os.geteuid() == 0 else "",
        )

    @property
    def owner(self) -> str:
        """Whose environments a name without an owner means."""
        return check_owner(self.config.owner or invoking_user().name)

    def ref(self, text: str) -> EnvRef:
        """Read an environment as the user named it."""
        return EnvRef.parse(text, owner=self.owner)


def require_root(action: str) -> None:
    """Refuse early and clearly what needs root.

    :raises Unavailable: this process is not root.
    """
    if os.geteuid() != 0:
        raise Unavailable(f"{action} needs root", resolution="use sudo: sudo envkit ...")


@contextlib.contextmanager
def counting(context: Context, text: str) -> Iterator[Callable[[int], None]]:
    """Show a step of progress whose worker says how many files it has found so far."""
    found = 0
    with context.progress.step(text, unit="files") as step:

        def advance(count: int) -> None:
            nonlocal found
            step.advance(count - found)
            found = count

        yield advance
