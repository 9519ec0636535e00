"""Environments in stores without a container: layers from a few lines, published through the real services."""

import os

from envkit.config.model import Config
from envkit.model.ids import EnvName
from envkit.model.tree import Entry, Kind, path_key
from envkit.model.version import LayerRef, Version, VersionKind
from envkit.services.context import Context
from envkit.services.publishing import writing
from envkit.services.storing import store_layer
from envkit.store import versions
from envkit.store.open import init_store

CREATED = "2026-01-31T12:00:00Z"
GONE = Entry(b"", Kind.WHITEOUT)
"""Stands for a whiteout."""


class Link(str):
    """Stands for a symlink with this target."""


class HardLink(str):
    """Stands for another name of this path."""


class Lab:
    """A node with a store of its own: a root directory and a store below `place`."""

    def __init__(self, place, *, store=None, owner="lab"):
        self.root = f"{place}/root"
        self.store_path = store or f"{place}/store"
        if store is None:
            init_store(self.store_path)
        os.makedirs(self.root, exist_ok=True)
        self.context = self.fresh_context(owner)

    def fresh_context(self, owner="lab"):
        return Context(Config(root=self.root, store=self.store_path, owner=owner))

    @property
    def store(self):
        return self.context.store

    def layer(self, files):
        """Store a layer of what `files` says; see `entries`."""
        listed, contents = entries(files)
        with writing(self.context) as writer:
            return store_layer(self.context, writer, listed, lambda entry: [(0, contents[entry.path])])

    def save(self, name, *layers, below=None, **fields):
        """Publish the next version of an environment: layers (what they hold, or references) on those of a version."""
        owner, _, plain = name.rpartition("/")
        refs = tuple(layer if isinstance(layer, LayerRef) else self.layer(layer) for layer in layers)
        env = EnvName(owner=owner or "lab", name=plain)
        draft = Version(
            env=env,
            number=1,
            kind=VersionKind.BASE if env.is_base else VersionKind.ENVIRONMENT,
            layers=(below.layers if below else ()) + refs,
            **(self._usual(below) | fields),
        )
        with writing(self.context) as writer:
            return writer.publish(draft, expected=None)

    @staticmethod
    def _usual(below):
        parent = str(below) if below else None
        return {"author": "alice", "created": CREATED, "arch": "x86_64", "parent": parent}

    def delete(self, version):
        versions.delete(self.store, version.env, [version.number], author="alice", created=CREATED)


def entries(files):
    """Return canonical entries and contents by path.

    Keys are paths as text; values bytes for a file, None for a directory, Link, HardLink, GONE, or a whole Entry,
    with its content in a pair. Directories that are missing are added.
    """
    found = {b"": Entry(b"", Kind.DIRECTORY, 0o755)}
    contents = {}
    for name, value in files.items():
        path = os.fsencode(name)
        above = path.rpartition(b"/")[0]
        while above:
            found.setdefault(above, Entry(above, Kind.DIRECTORY, 0o755))
            above = above.rpartition(b"/")[0]
        found[path], data = _entry(path, value)
        if data is not None:
            contents[path] = data
    return [found[path] for path in sorted(found, key=path_key)], contents


def _entry(path, value):
    if isinstance(value, tuple):
        entry, data = value
        return type(entry)(
            **{f: getattr(entry, f) for f in entry.__struct_fields__} | {"path": path, "size": len(data)}
        ), data
    if value is GONE:
        return Entry(path, Kind.WHITEOUT), None
    if isinstance(value, Entry):
        return type(value)(**{f: getattr(value, f) for f in value.__struct_fields__} | {"path": path}), None
    if isinstance(value, Link):
        return Entry(path, Kind.SYMLINK, 0o777, target=os.fsencode(value)), None
    if isinstance(value, HardLink):
        return Entry(path, Kind.HARDLINK, target=os.fsencode(value)), None
    if value is None:
        return Entry(path, Kind.DIRECTORY, 0o755), None
    return Entry(path, Kind.FILE, 0o644, size=len(value)), value
