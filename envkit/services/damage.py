"""Owns what is wrong with a store: each damaged or missing object, and whose versions and files that affects."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from envkit.model.tree import Tree, display_path
from envkit.model.version import Version

MAX_PATHS = 20

VERSION = "version"
TREE = "tree"
PACK = "pack"
NOTE = "note"
LOST = "lost version"


@dataclass(frozen=True)
class Damage:
    """One damaged or missing object.

    :ivar kind: VERSION, TREE, PACK, NOTE (a record of a collection), or LOST (a version that a collection has seen).
    :ivar digest: of a tree or a pack, in hexadecimal; empty for the others.
    :ivar chunks: of a pack, the digests of the chunks that cannot be had from it.
    :ivar versions: the versions that need it.
    :ivar paths: files that need it, in one of these versions each, at most MAX_PATHS of `files`.
    """

    key: str
    kind: str
    problem: str
    digest: str = ""
    chunks: frozenset[bytes] = frozenset()
    versions: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    files: int = 0


@dataclass
class Needs:
    """Which trees the checked versions need, and the packs that these trees name, with the bytes needed of each."""

    versions: dict[str, list[str]] = field(default_factory=dict)
    packs: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, versions: Iterable[Version]) -> "Needs":
        """Return the needs of versions, before any of their trees was read."""
        needs = cls()
        for version in versions:
            for tree in dict.fromkeys(layer.tree for layer in version.layers):
                needs.versions.setdefault(tree, []).append(str(version))
        return needs

    def bytes_of(self) -> dict[str, int]:
        """Return how many bytes each pack has to have at least."""
        needed: dict[str, int] = {}
        for packs in self.packs.values():
            for pack, size in packs.items():
                needed[pack] = max(needed.get(pack, 0), size)
        return needed

    def versions_of(self, trees: Iterable[str]) -> tuple[str, ...]:
        """Return the versions that need some of these trees."""
        return tuple(dict.fromkeys(version for tree in trees for version in self.versions.get(tree, ())))


def with_files(
    damages: Iterable[Damage], needs: Needs, load: Callable[[str], Tree], sizes: Mapping[str, int]
) -> list[Damage]:
    """Return the damages of packs with the versions and files that they affect.

    :param load: gives a tree by its digest.
    :param sizes: bytes of the packs that are there; what lies behind them is missing.
    """
    damages = list(damages)
    found: dict[str, list[str]] = {damage.digest: [] for damage in damages}
    lost: dict[str, set[bytes]] = {damage.digest: set(damage.chunks) for damage in damages}
    counts = dict.fromkeys(found, 0)
    trees: dict[str, list[str]] = {digest: [] for digest in found}
    for digest, packs in needs.packs.items():
        hit = packs.keys() & found.keys()
        if not hit:
            continue
        tree = load(digest)
        bad: dict[int, str] = {}
        for number, chunk in enumerate(tree.chunks):
            pack = chunk.pack.hex()
            if pack in hit and (chunk.digest in lost[pack] or chunk.offset + chunk.stored > sizes.get(pack, 0)):
                bad[number] = pack
                lost[pack].add(chunk.digest)
        for pack in set(bad.values()):
            trees[pack].append(digest)
        for entry in tree.entries:
            for pack in {bad[segment.chunk] for segment in entry.segments if segment.chunk in bad}:
                counts[pack] += 1
                if len(found[pack]) < MAX_PATHS:
                    found[pack].append(display_path(entry.path))
    return [
        replace(
            damage,
            chunks=frozenset(lost[damage.digest]),
            versions=needs.versions_of(trees[damage.digest]),
            paths=tuple(found[damage.digest]),
            files=counts[damage.digest],
        )
        for damage in damages
    ]


def damage_json(damage: Damage) -> dict[str, object]:
    """Return a damage for `--json`."""
    return {
        "object": damage.key,
        "kind": damage.kind,
        "problem": damage.problem,
        "versions": list(damage.versions),
        "paths": list(damage.paths),
        "files": damage.files,
    }
