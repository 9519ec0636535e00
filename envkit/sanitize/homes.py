"""Owns what counts as a home, the `~` of rules: where people and services keep their dot files.

Homes are `/root`, every directory in `/home`, those that `/etc/passwd` names, and every directory of the layer that
holds a file known to carry credentials, wherever it lies and whether or not passwd mentions it. The last kind is not
looked for in what package managers own: test data called `.netrc` within `site-packages` is part of that package.
"""

from collections.abc import Callable, Sequence

from envkit.model.tree import MAX_PATH, Entry, Kind
from envkit.sanitize.match import Matcher, expand_braces

# `Kind.DIRECTORY` is a slow look-up in Python 3.11.
_DIRECTORY, _WHITEOUT = Kind.DIRECTORY, Kind.WHITEOUT

MAX_PASSWD_BYTES = 1 << 20
MAX_PASSWD_LINES = 20_000
MAX_LINKS = 40

MARKERS: tuple[str, ...] = (
    ".ssh/{id_*,identity,authorized_keys,known_hosts}",
    ".aws/credentials",
    ".config/gcloud/{credentials.db,access_tokens.db,application_default_credentials.json}",
    ".azure/{accessTokens.json,msal_token_cache.*}",
    ".oci/config",
    ".kube/config",
    ".docker/config.json",
    ".config/containers/auth.json",
    ".pypirc",
    ".cargo/credentials{,.toml}",
    ".git-credentials",
    ".config/git/credentials",
    ".config/gh/hosts.yml",
    ".netrc",
    ".cache/huggingface/{token,stored_tokens}",
    ".kaggle/kaggle.json",
    ".s3cfg",
    ".config/rclone/rclone.conf",
    ".globus/userkey.pem",
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    ".vault-token",
    ".gnupg/{secring.gpg,private-keys-v1.d/*}",
    ".local/share/keyrings/*",
    ".{bash,zsh,python}_history",
    ".Xauthority",
)
"""Below a home; a file of such a name makes the directory above one. Nothing that projects carry too, like .npmrc."""

_OWNED_NAMES = frozenset((b"site-packages", b"dist-packages", b"node_modules", b"gems"))
_OWNED_TREES = tuple(
    b"usr/bin/ usr/include/ usr/lib/ usr/lib64/ usr/libexec/ usr/share/ usr/src/ nix/store/ gnu/store/".split()
)

# Directories of the system that passwd gives to accounts without a home of their own.
_SYSTEM = frozenset(
    b"bin boot dev etc home lib lib32 lib64 libx32 media mnt nonexistent opt proc run sbin srv sys tmp usr var "
    b"usr/bin usr/games usr/include usr/lib usr/lib64 usr/libexec usr/local usr/sbin usr/share usr/src "
    b"var/cache var/lib var/local var/log var/mail var/run var/spool var/tmp".split()
)


def find_homes(
    entries: Sequence[Entry], *, passwd: bytes, link: Callable[[bytes], bytes | None] = lambda _path: None
) -> frozenset[bytes]:
    """Return the paths of all homes, without a leading slash.

    :param passwd: content of `/etc/passwd`; of more than 1 MiB or 20,000 lines, only that much counts.
    :param link: the target of a path that is a symlink in the merged view, None for all others.
    """
    named = [b"root", *passwd_homes(passwd)]
    homes = {*named, *(place for place in (_resolved(home, link) for home in named) if place and place not in _SYSTEM)}
    parents = {b"home", _resolved(b"home", link)}
    markers = [b"**/" + glob for marker in MARKERS for glob in expand_braces(marker.encode())]
    depths = [glob.count(b"/") for glob in markers]
    matcher = Matcher(markers)
    states = {b"": matcher.start}
    place, state = b"", matcher.start
    for entry in entries:
        parent, _, name = entry.path.rpartition(b"/")
        if parent != place:
            place, state = parent, states[parent]
        if entry.kind is _DIRECTORY:
            after = matcher.step(state, name)
            # Only files in the place of credentials tell of a home: forget it where there is a directory.
            states[entry.path] = matcher.start if after.tags or not name else after
            if parent in parents and name:
                homes.add(entry.path)
        elif entry.kind is not _WHITEOUT:
            tags = matcher.leaf(state, name).tags
            if tags and not _is_owned(entry.path):
                homes.update(b"/".join(entry.path.split(b"/")[: -depths[tag]]) for tag in tags)
    return frozenset(homes)


def passwd_homes(passwd: bytes) -> list[bytes]:
    """Return the homes that an `/etc/passwd` names, without leading slashes, leaving out what can be none.

    Relative paths, those with `.` or `..`, the root directory and directories of the system are no homes: their
    owners do not live there, and a rule for dot files has nothing to do in them.
    """
    homes = []
    for line in passwd[:MAX_PASSWD_BYTES].split(b"\n", MAX_PASSWD_LINES)[:MAX_PASSWD_LINES]:
        fields = line.split(b":")
        if len(fields) < 6 or not fields[5].startswith(b"/") or len(fields[5]) > MAX_PATH or b"\0" in fields[5]:
            continue
        names = [name for name in fields[5].split(b"/") if name]
        home = b"/".join(names)
        if home and home not in _SYSTEM and b"." not in names and b".." not in names:
            homes.append(home)
    return homes


def _is_owned(path: bytes) -> bool:
    """Tell whether a path lies in what a package manager installed."""
    return path.startswith(_OWNED_TREES) or not _OWNED_NAMES.isdisjoint(path.split(b"/"))


def _resolved(path: bytes, link: Callable[[bytes], bytes | None]) -> bytes | None:
    """Return where a path leads within the environment, following symlinks as text; None where they turn in circles."""
    todo = path.split(b"/")[::-1]
    place = b""
    followed = 0
    while todo:
        name = todo.pop()
        if name == b"..":
            place = place.rpartition(b"/")[0]
        elif name not in (b"", b"."):
            here = place + b"/" + name if place else name
            target = link(here)
            if target is None:
                place = here
                continue
            followed += 1
            if followed > MAX_LINKS:
                return None
            if target.startswith(b"/"):
                place = b""
            todo += target.split(b"/")[::-1]
    return place
