"""Random trees for property tests: valid ones, and ones with a field changed to something hostile."""

from hypothesis import strategies as st
from msgspec.structs import replace
from support import TreeBuilder, acl, capability

from envkit.model.tree import Entry, Kind, Segment, Tree

_AWKWARD_NAMES = (
    b"-",
    b"!bang",
    b".a",
    b"...",
    b"..b",
    b".-",
    b"new\nline",
    b"\xff\xfe",
    b"\x01",
    b"x" * 255,
    b"\xc3" * 255,
    b" ",
    b"wh.x",
)
names = st.sampled_from(_AWKWARD_NAMES) | st.binary(min_size=1, max_size=6).filter(
    lambda name: not set(name) & {0, 0x2F} and name not in (b".", b"..")
)
_ids = st.sampled_from((0, 1, 1000, 65_535, 65_536, (1 << 31) - 2))
_times = st.sampled_from(
    (0, 1, 999_999_999, 1_700_000_000_000_000_001, (1 << 31) * 1_000_000_000, 4_102_444_800 * 10**9)
)
_permissions = st.integers(0, 7)


@st.composite
def _attributes(draw, kind):
    mode = 0o777 if kind == "symlink" else draw(st.integers(0, 0o7777))
    xattrs = {}
    if kind in ("file", "directory"):
        for name in draw(st.lists(st.sampled_from((b"user.a", b"user.b" * 40, b"user.\xff")), max_size=2)):
            xattrs[name] = draw(st.binary(max_size=90))
    if kind != "symlink" and draw(st.integers(0, 5)) == 0:
        users = [(draw(_ids), draw(_permissions))]
        xattrs[b"system.posix_acl_access"] = acl(mode, users=users)
    if kind == "directory" and draw(st.integers(0, 5)) == 0:
        groups = [(draw(_ids), draw(_permissions))]
        xattrs[b"system.posix_acl_default"] = acl(draw(st.integers(0, 0o777)), groups=groups)
    if kind == "file" and draw(st.integers(0, 5)) == 0:
        xattrs[b"security.capability"] = capability(root=draw(st.sampled_from((None, 100_000))))
    return {
        "mode": mode,
        "uid": draw(_ids),
        "gid": draw(_ids),
        "mtime_ns": draw(_times),
        "xattrs": tuple(sorted(xattrs.items())),
    }


@st.composite
def _pieces(draw):
    """Pieces of a file with holes between them, and its size."""
    pieces, end = [], 0
    for _ in range(draw(st.integers(0, 3))):
        end += draw(st.sampled_from((0, 0, 1, 4096, 70_000)))
        data = draw(st.binary(min_size=1, max_size=40)) * draw(st.sampled_from((1, 1, 150)))
        pieces.append((end, data))
        end += len(data)
    return pieces, end + draw(st.sampled_from((0, 0, 1, 10_000)))


@st.composite
def trees(draw, *, beneath: Tree | None = None, max_entries: int = 14):
    """Return a valid tree and its chunks.

    With `beneath` it is a layer upon that tree: it reuses its names, and has whiteouts, only for what is there, and
    opaque directories.
    """
    builder = TreeBuilder(chunk_size=draw(st.sampled_from((7, 64, 5000))))
    lower = {} if beneath is None else {entry.path: entry.kind for entry in beneath.entries}
    builder.directory(b"", **draw(_attributes("directory")))
    directories, taken, linkable = [b""], {b""}, []
    hidden: set[bytes] = set()
    for _ in range(draw(st.integers(0, max_entries))):
        parent = draw(st.sampled_from(directories))
        below = [path for path in lower if path and path.rpartition(b"/")[0] == parent]
        if below and draw(st.booleans()):
            path = draw(st.sampled_from(below))
        else:
            path = (parent + b"/" if parent else b"") + draw(names)
        if path in taken:
            continue
        taken.add(path)
        kinds = ["directory", "directory", "file", "file", "symlink", "fifo"]
        if path in lower and parent not in hidden:
            kinds += ["whiteout", "whiteout"]
        if any(target < path.replace(b"/", b"\0") for target, _ in linkable):
            kinds += ["hardlink"]
        kind = draw(st.sampled_from(kinds))
        if kind == "whiteout":
            builder.whiteout(path)
        elif kind == "hardlink":
            earlier = [target for key, target in linkable if key < path.replace(b"/", b"\0")]
            builder.hardlink(path, draw(st.sampled_from(earlier)))
        else:
            attributes = draw(_attributes(kind))
            if kind == "directory":
                opaque = beneath is not None and draw(st.booleans())
                if opaque or parent in hidden or lower.get(path) is not Kind.DIRECTORY:
                    hidden.add(path)
                builder.directory(path, opaque=opaque, **attributes)
                directories.append(path)
            elif kind == "file":
                pieces, size = draw(_pieces())
                builder.file(path, pieces, size=size, **attributes)
            elif kind == "symlink":
                builder.symlink(
                    path, draw(st.sampled_from((b"a", b"/etc/passwd", b"../" * 500, b"t" * 4095))), **attributes
                )
            else:
                builder.fifo(path, **attributes)
            if kind != "directory":
                linkable.append((path.replace(b"/", b"\0"), path))
    return builder.build()


_integers = st.sampled_from((-1, 0, 1, 4095, 4096, 1 << 12, 1 << 31, 1 << 32, 1 << 45, 1 << 62, 1 << 64))
_hostile_values = {
    "path": st.sampled_from(
        (b"", b"/", b"//", b"a", b"../x", b"a/../b", b".", b"..", b"a\0b", b"a" * 256, b"\xff", b"/a")
    ),
    "kind": st.sampled_from(Kind),
    "mode": _integers,
    "uid": _integers,
    "gid": _integers,
    "mtime_ns": _integers.map(lambda seconds: seconds * 10**9),
    "size": _integers,
    "target": st.sampled_from((b"", b"a", b"\0", b"b" * 4096, b"c" * 10_000, b"..")),
    "opaque": st.just(True),
    "xattrs": st.sampled_from(
        (
            ((b"trusted.overlay.redirect", b"/"),),
            ((b"user.overlay.opaque", b"y"),),
            ((b"user.big", b"v" * 65_536),),
            tuple((b"user.%02d" % number, b"v" * 60_000) for number in range(6)),
            ((b"security.capability", b"x"),),
            ((b"system.posix_acl_access", b"\2\0\0\0"),),
            ((b"user.b", b""), (b"user.a", b"")),
            ((b"unknown", b""),),
        )
    ),
    "segments": st.tuples(st.builds(Segment, _integers, _integers, _integers, _integers)),
}


@st.composite
def hostile_trees(draw):
    """Return a tree like those of `trees`, with one to three fields of entries changed, or entries moved."""
    tree, chunks = draw(trees())
    entries: list[Entry] = list(tree.entries)
    for _ in range(draw(st.integers(1, 3))):
        index = draw(st.integers(0, len(entries) - 1))
        change = draw(st.sampled_from((*_hostile_values, "double", "drop", "swap")))
        if change == "double":
            entries.insert(index, entries[index])
        elif change == "drop" and len(entries) > 1:
            del entries[index]
        elif change == "swap":
            other = draw(st.integers(0, len(entries) - 1))
            entries[index], entries[other] = entries[other], entries[index]
        elif change in _hostile_values:
            entries[index] = replace(entries[index], **{change: draw(_hostile_values[change])})
    return Tree(tree.format, entries, tree.chunks), chunks
