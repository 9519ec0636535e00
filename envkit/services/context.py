"""Owns what every use case starts from: configuration, paths, the store, and who is asking."""

import os

from envkit.config.model import Config
from envkit.errors import Unavailable
from envkit.model.ids import EnvRef, check_owner
from envkit.model.paths import Paths
from envkit.node.account import invoking_user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from envkit.store.base import Store


class Context:
    """One invocation of envkit; opens the store when it is first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.paths = Paths.at(config.root)
        self._store: Store | None = None

    @property
    def store(self) -> "Store":
        """The configured store."""
        if self._store is None:
            from envkit.store.open import open_store

            self._store = open_store(self.config.store or self.paths.store)
        return self._store

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
