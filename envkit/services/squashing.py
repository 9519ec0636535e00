"""Owns the use case `squash`: a new version whose layers above the base are one. No file content is read or written."""

from dataclasses import dataclass

from envkit.drivers.crash import crash_point
from envkit.errors import Conflict, Damaged, InvalidInput, NotFound
from envkit.model.ids import EnvRef
from envkit.model.merge import merge
from envkit.model.squash import squash as squash_trees
from envkit.model.tree import Tree
from envkit.model.version import Version
from envkit.services.context import Context, require_root
from envkit.services.environments import now
from envkit.services.layers import layer_tree
from envkit.services.publishing import writing
from envkit.services.storing import store_tree
from envkit.store import versions


@dataclass(frozen=True)
class Squashed:
    """The new version, and what it was made of."""

    version: Version
    source: Version


def squash(context: Context, text: str, *, message: str = "") -> Squashed:
    """Make a version of the latest one that shows the same files with one layer on the base.

    :raises Conflict: there is but one layer on the base, or somebody saved meanwhile.
    """
    require_root("squashing")
    ref = context.ref(text)
    if not ref.is_whole:
        raise InvalidInput(
            f"{text!r} names a version, but only the latest one is squashed",
            resolution=f"make it the latest: `envkit rollback {ref}`",
        )
    with writing(context) as writer:
        expected = versions.next_number(context.store, ref.env)
        source = versions.resolve(context.store, ref)
        count = _base_layers(context, source)
        base, upper = source.layers[:count], source.layers[count:]
        if len(upper) < 2:
            has = "one layer" if upper else "no layer"
            raise Conflict(f"{source} has {has} on its base: there is nothing to squash")
        trees = _trees(context, source)
        entries, chunks = squash_trees(merge(tree.entries for tree in trees[:count]), trees[count:])
        crash_point("squash:composed")
        layer = store_tree(context, writer, entries, chunks)
        crash_point("squash:stored")
        draft = source.replace(
            number=expected,
            layers=(*base, layer),
            parent=str(source),
            origin=None,
            message=message or f"squash of @{source.number}",
            description="",
            author=context.owner,
            created=now(),
            report=None,
        )
        version = writer.publish(draft, expected=expected)
        crash_point("squash:published")
    return Squashed(version, source)


def _trees(context: Context, version: Version) -> list[Tree]:
    trees = []
    with context.progress.step("reading file lists", total=len(version.layers), unit="layers") as step:
        for layer in version.layers:
            trees.append(layer_tree(context, layer.tree))
            step.advance(1)
    return trees


def _base_layers(context: Context, version: Version) -> int:
    """Return how many of a version's layers are its base's: those of the base's record, or the lowest.

    The base may be gone by now. Any number gives the same files; only more or less of the layer is shared with others.
    """
    try:
        ref = EnvRef.parse(version.base or "", owner=version.env.owner)
        layers = versions.load(context.store, ref.env, ref.version or 1).layers
    except (InvalidInput, NotFound, Damaged):
        return 1
    return len(layers) if layers and layers == version.layers[: len(layers)] else 1
