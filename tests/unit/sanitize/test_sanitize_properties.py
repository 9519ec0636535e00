"""What must hold for every layer, whatever is in it."""

from hypothesis import given, settings
from hypothesis import strategies as st
from sanitize_support import GIT_CONFIG, Layer, directory, file, hard_link, symlink, whiteout

from envkit.model.tree import Entry, Kind, path_key
from envkit.sanitize import RULES, Outcome, apply_plan, report

PATHS = [
    "etc/hosts", "etc/machine-id", "etc/shadow-", "etc/ssh/ssh_host_rsa_key", "etc/gitconfig", "etc/apt/auth.conf.d/a",
    "opt/a", "opt/b", "opt/clone/.git/config", "opt/clone/.git/objects/aa", "opt/user/.netrc", "opt/user/.bash_history",
    "opt/user/.cache/pip/a/b", "opt/conda/pkgs/a.conda", "root/.bashrc", "root/.netrc", "root/.ssh/id_rsa",
    "root/.ssh/x/.git/config", "root/.gnupg/pubring.kbx", "root/.gnupg/secring.gpg", "root/.npm/_cacache/a",
    "root/.npm/_cacache/b/c", "root/.cache/uv/a/b/c", "root/.cache/uv/d", "root/.gitconfig",
    "home/u/.aws/config", "home/u/.julia/logs/manifest_usage.toml", "tmp/a", "tmp/b/c", "tmp/b/d/e",
    "usr/lib/python3/dist-packages/x/.netrc", "var/cache/apt/archives/x", "var/cache/debconf/passwords.dat",
    "var/lib/dpkg/status-old", "var/log/a.log", "var/log/sub/b.log", "var/log/journal/0/x", "zz",
    "root/.vscode-server/bin/x", "tmp/g/.git/config",
]  # fmt: skip
ODD = b"home/\xff/.ssh/\x80"
ALLOWS = ["R005:/root/.netrc", "R202:~/.cache/uv", "R019:/tmp/b", "R002:**/id_rsa", "R005:/opt/a", "R106:/var/log/**"]


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    chosen = [path.encode() for path in draw(st.lists(st.sampled_from(PATHS), unique=True, max_size=25))] + [ODD]
    contents = st.sampled_from([b"", b"plain", GIT_CONFIG])
    entries: list[Entry] = []
    held: dict[bytes, bytes] = {}
    firsts: list[bytes] = []
    for path in sorted(chosen, key=path_key):
        kind = draw(st.sampled_from("fffffhlwp"))
        if kind == "h" and firsts:
            entries.append(hard_link(path, draw(st.sampled_from(firsts))))
        elif kind == "l":
            entries.append(symlink(path, b"../elsewhere"))
            firsts.append(path)
        elif kind == "w":
            entries.append(whiteout(path))
        elif kind == "p":
            entries.append(Entry(path, Kind.FIFO))
        else:
            held[path] = draw(contents)
            entries.append(file(path, size=len(held[path])))
            firsts.append(path)
    places = {path.rpartition(b"/")[0] for path in chosen} | {path.split(b"/")[0] for path in chosen} | {b"tmp/empty"}
    entries += [
        directory(place, opaque=True) for place in draw(st.sets(st.sampled_from(sorted(places)), max_size=4)) if place
    ]
    below = [file(path) for path in draw(st.lists(st.sampled_from(chosen), unique=True))]
    return Layer.of(*entries, below=below, contents=held)


allows = st.lists(st.sampled_from(ALLOWS), unique=True, max_size=3)


def shown(layer: Layer, entries: list[Entry], path: bytes) -> Entry | None:
    """Return what the overlay of entries over the lower shows at a path."""
    upper = {entry.path: entry for entry in entries}
    if path in upper:
        return None if upper[path].kind is Kind.WHITEOUT else upper[path]
    above = path
    while above:
        above = above.rpartition(b"/")[0]
        if above in upper and (upper[above].opaque or upper[above].kind is not Kind.DIRECTORY):
            return None
    return layer.below.get(path)


@settings(max_examples=60, deadline=None)
@given(layers(), allows)
def test_cleaning_a_cleaned_layer_does_nothing(layer: Layer, allow: list[str]) -> None:
    once = layer.cleaned(allow=allow)
    again = layer.after(once)
    plan = again.plan(allow=allow)
    assert plan.actions == ()
    assert apply_plan(again.entries, plan).entries == once.entries


@settings(max_examples=25, deadline=None)
@given(layers(), allows)
def test_the_same_layer_gives_the_same_plan(layer: Layer, allow: list[str]) -> None:
    plan, other = layer.plan(allow=allow), layer.plan(allow=allow)
    assert plan == other
    assert report(plan) == report(other)
    assert apply_plan(layer.entries, plan) == apply_plan(layer.entries, other)


@settings(max_examples=60, deadline=None)
@given(layers(), allows)
def test_what_goes_is_not_to_be_seen_and_what_stays_is_as_it_was(layer: Layer, allow: list[str]) -> None:
    plan = layer.plan(allow=allow)
    cleaned = apply_plan(layer.entries, plan)
    after = {entry.path: entry for entry in cleaned.entries}
    done = {action.path: action.outcome for action in plan.actions}
    for entry in layer.entries:
        outcome, path = done.get(entry.path), entry.path
        if outcome in (Outcome.DROP, Outcome.WHITEOUT):
            assert shown(layer, cleaned.entries, path) is None
        elif outcome is Outcome.RESTORE:
            assert shown(layer, cleaned.entries, path) == layer.below[path]
        elif outcome is not None:
            assert b"hunter2" not in cleaned.contents[path]
            assert after[path].size == len(cleaned.contents[path])
        elif entry.kind is Kind.HARDLINK and after[path].kind is not Kind.HARDLINK:
            first = next(other for other in layer.entries if other.path == entry.target)
            assert (after[path].mode, after[path].size) == (first.mode, first.size)
        elif entry.kind is not Kind.HARDLINK:
            assert after[path] == entry
    assert len(set(after) | set(done)) == len(layer.entries)


@settings(max_examples=60, deadline=None)
@given(layers())
def test_no_content_of_a_secret_stays_under_any_name(layer: Layer) -> None:
    plan = layer.plan(rules=[rule for rule in RULES if rule.secret])
    lost = {action.path for action in plan.actions}
    contents = {entry.path: entry.target if entry.kind is Kind.HARDLINK else entry.path for entry in layer.entries}
    kept = {
        contents[entry.path]
        for entry in apply_plan(layer.entries, plan).entries
        if entry.kind in (Kind.FILE, Kind.HARDLINK) and entry.path not in lost
    }
    for path in lost:
        assert contents[path] not in kept
