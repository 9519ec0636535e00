"""Random values of the model for property tests: names, versions, and files with their data. Trees: tree_strategies."""

from hypothesis import strategies as st

from envkit.model.ids import EnvName
from envkit.model.tree import Entry, Kind
from envkit.model.version import Finding, LayerRef, Report, Version, VersionKind

_text = st.text(st.characters(codec="utf-8"), max_size=20)
_counts = st.integers(0, (1 << 62) - 1)
digests = st.binary(min_size=32, max_size=32)

env_names = st.builds(
    EnvName,
    owner=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True),
    name=st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True).filter(lambda name: not name.endswith(".lock")),
)

_layers = st.builds(LayerRef, tree=digests.map(bytes.hex), entries=_counts, size=_counts, stored=_counts)
_reports = st.builds(
    Report,
    ruleset=st.integers(1, 1000),
    findings=st.lists(st.builds(Finding, rule=_text, path=_text, action=_text), max_size=3).map(tuple),
)


def versions(env: st.SearchStrategy[EnvName] = env_names) -> st.SearchStrategy[Version]:
    """Return versions with layers: bases and environments."""
    return st.builds(
        Version,
        env=env,
        number=st.integers(1, 99_999_999),
        kind=st.sampled_from((VersionKind.BASE, VersionKind.ENVIRONMENT)),
        layers=st.lists(_layers, min_size=1, max_size=4).map(tuple),
        base=st.none() | _text,
        parent=st.none() | _text,
        origin=st.none() | _text,
        message=_text,
        description=_text,
        author=_text,
        created=_text,
        arch=_text,
        report=st.none() | _reports,
    )


@st.composite
def files_with_data(draw, *, max_files: int = 12, max_data: int = 6000):
    """Return a list of `(entry, [(start, bytes), ...])` in canonical order: files with holes, and some directories."""
    names = draw(st.lists(st.from_regex(rb"[a-z]{1,3}", fullmatch=True), unique=True, max_size=max_files))
    files = [(Entry(b"", Kind.DIRECTORY, 0o755), [])]
    for name in sorted(names):
        if draw(st.integers(0, 4)) == 0:
            files.append((Entry(name, Kind.DIRECTORY, 0o755), []))
            continue
        content, end = [], 0
        for _ in range(draw(st.integers(0, 4))):
            end += draw(st.sampled_from((0, 0, 1, 5000)))
            seed = draw(st.binary(min_size=1, max_size=40))
            data = (seed * (max_data // len(seed) + 1))[: draw(st.integers(1, max_data))]
            content.append((end, data))
            end += len(data)
        files.append((Entry(name, Kind.FILE, 0o644, size=end + draw(st.sampled_from((0, 0, 700)))), content))
    return files
