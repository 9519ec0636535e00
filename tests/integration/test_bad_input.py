"""What bad input gets: one clear line and the right exit code; nothing lost, nothing mounted left behind."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile

import pytest
from commandline import CHECKOUT, Envkit
from traces import new_traces, traces

from envkit.content import treefile

pytestmark = [pytest.mark.root, pytest.mark.lxc]


@pytest.fixture(scope="module")
def damaged(new_root, tiny_root):
    """A root of these tests' own, to be damaged: the base `tiny` and the environment `env`, with a blob of 3 MB."""
    envkit = new_root()
    envkit("base", "import", "tiny", tiny_root).ok()
    envkit.saved("env", "head -c 3000000 /dev/urandom >/opt/blob; echo text >/opt/text")
    return envkit


@pytest.fixture
def lab(damaged):
    """The root to be damaged; it has to be whole again, and nothing left of what was tried."""
    before = traces(damaged)
    yield damaged
    assert new_traces(damaged, before) == []
    assert damaged.json("status") == []
    assert damaged.sh("env", "cat /opt/text").ok() == "text"


@pytest.fixture
def small_disk(disk, tmp_path_factory):
    """A function that mounts an ext4 of a few megabytes, and gives its directory."""
    with contextlib.ExitStack() as cleanup:

        def make(megabytes):
            # Beside the root and not in it: what is mounted here is this test's.
            image = f"{disk}/small-{megabytes}.img"
            place = str(tmp_path_factory.mktemp("small"))
            with open(image, "wb") as file:
                file.truncate(megabytes << 20)
            cleanup.callback(os.unlink, image)
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", image], check=True)
            subprocess.run(["mount", "-o", "loop", image, place], check=True)
            cleanup.callback(subprocess.run, ["umount", "-l", place], check=True)
            shutil.rmtree(f"{place}/lost+found")
            return place

        yield make


def _forget(envkit):
    """Empty a root's cache, so that everything comes from the store again."""
    shutil.rmtree(f"{envkit.root}/cache")


def _objects(envkit, kind):
    """Return the paths of a store's packs, trees or versions."""
    return [f"{place}/{name}" for place, _, names in os.walk(f"{envkit.root}/store/{kind}") for name in names]


def _packs(envkit, ref):
    """Return the paths of the packs that a version's own layer needs."""
    with open(_tree(envkit, ref), "rb") as file:
        tree = treefile.decode(file.read(), os.path.basename(file.name))
    return {f"{envkit.root}/store/packs/{name[:2]}/{name}" for name in (chunk.pack.hex() for chunk in tree.chunks)}


def _tree(envkit, ref, layer=-1):
    digest = envkit.json("info", ref)["layers"][layer]["tree"]
    return f"{envkit.root}/store/trees/{digest[:2]}/{digest}"


@contextlib.contextmanager
def _changed(path, change):
    """Change a stored object for a while; `change` gets the bytes and returns others, or None to remove it."""
    with open(path, "rb") as file:
        data = file.read()
    mode = os.stat(path).st_mode & 0o7777
    os.unlink(path)
    new = change(data)
    try:
        if new is not None:
            with open(path, "wb") as file:
                file.write(new)
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, mode)


def _flip(data):
    """Change one bit in the middle."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


# Names


def test_names_that_do_not_exist_are_told_with_what_does(lab):
    lab.sh("evn", "true").fails(125, "no environment lab/evn", "did you mean lab/env?")
    for words in (["info", "evn"], ["log", "evn"], ["files", "evn"], ["delete", "evn", "--yes"]):
        lab(*words).fails(3, "no environment lab/evn", "did you mean lab/env?")
    lab("info", "env@7").fails(3, "lab/env has no version 7: it has 1")
    lab("info", "env@X").fails(2, "invalid version 'X'")
    lab("info", "env@x").fails(3, "lab/env has no tag 'x'")
    lab("info", "a/b/c").fails(2, "invalid")
    lab("base", "delete", "deiban", "--yes").fails(3, "no base deiban")
    lab("base", "build", "plan-9").fails(3, "plan-9", "debian-12")


def test_what_is_no_root_file_system_is_not_imported(lab, tmp_path):
    (tmp_path / "empty").mkdir()
    lab("base", "import", "bad", str(tmp_path / "empty")).fails(2, "holds no root file system")
    (tmp_path / "text.tar").write_text("this is no archive")
    lab("base", "import", "bad", str(tmp_path / "text.tar")).fails(1, "tar")
    lab("base", "import", "Bad Name", str(tmp_path / "empty")).fails(2, "invalid name")
    cut = tmp_path / "cut.tar"
    subprocess.run(["tar", "-c", "-f", cut, "-C", CHECKOUT, "envkit"], check=True)
    cut.write_bytes(cut.read_bytes()[:100_000])
    lab("base", "import", "bad", str(cut)).fails(1, "tar")
    assert [row["environment"] for row in lab.json("base", "list")] == ["base/tiny"]
    assert os.listdir(f"{lab.root}/tmp") == []


# Full disks


def test_a_full_store_refuses_the_save_and_loses_nothing(new_root, tiny_root, small_disk):
    store = small_disk(12)
    envkit = new_root()
    envkit("base", "import", "tiny", tiny_root).ok()
    os.rename(f"{envkit.root}/store", f"{envkit.root}/moved")
    shutil.copytree(f"{envkit.root}/moved", store, dirs_exist_ok=True)
    full = Envkit(envkit.root, store=store)
    with full.session("env", script="echo old >/opt/x"):
        full("save", "env").ok()
        full.inside("env", "echo new >/opt/x; head -c 30000000 /dev/urandom >/opt/blob").ok()
        for _ in range(2):
            full("save", "env").fails(7, f"the store {store} is full", "what was stored before is intact")
        assert full.inside("env", "cat /opt/x; wc -c </opt/blob").ok() == "new\n30000000"
        assert full.sh("env", "cat /opt/x").ok() == "old"
        assert [row["version"] for row in full.json("log", "env")] == [1]
        assert not [name for _, _, names in os.walk(store) for name in names if name.startswith("~")]
        full.inside("env", "rm /opt/blob").ok()
        assert full("save", "env").ok() == "lab/env@2"
    assert full.sh("env", "cat /opt/x").ok() == "new"


def test_a_full_disk_below_the_root_refuses_the_run(lab, small_disk):
    tight = Envkit(f"{small_disk(8)}/root", store=f"{lab.root}/store")
    with open(f"{os.path.dirname(tight.root)}/filler", "wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    os.truncate(f"{os.path.dirname(tight.root)}/filler", 6 << 20)
    tight.sh("env", "true", options=("--eager",)).fails(125, "no space left", "free some space")
    assert not [name for _, _, names in os.walk(tight.root) for name in names if name.startswith("image")]
    os.unlink(f"{os.path.dirname(tight.root)}/filler")
    assert tight.sh("env", "cat /opt/text").ok() == "text"
    tight("cache", "stop").ok()
    assert new_traces(tight, set(_groups_of_others(tight))) == []
    shutil.rmtree(tight.run_directory)


def _groups_of_others(envkit):
    return [line for line in traces(envkit) if line.startswith("control group")]


# Stores


def test_a_store_that_cannot_be_read_is_named(lab, tmp_path):
    missing = Envkit(lab.root, store=str(tmp_path / "none"))
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    foreign = Envkit(lab.root, store=str(other))
    plain = Envkit(lab.root, store=str(other / "file"))
    unknown = Envkit(lab.root, store="oci://host/place")
    for envkit, text, code in (
        (missing, f"cannot read the store {tmp_path}/none: ", 7),
        (foreign, "it is not an envkit store: it has no format.json", 7),
        (plain, "Not a directory", 7),
        (unknown, "stores of the kind oci:// are not supported", 2),
    ):
        envkit("list").fails(code, text)
        envkit.sh("env", "true").fails(125, text)
        envkit("create", "new", "--base", "tiny").fails(code, text)
    assert not os.path.exists(tmp_path / "none")
    assert lab.json("status") == []


def test_without_privilege_the_answer_is_one_line(lab, as_nobody):
    as_nobody(lab, "run", "-e", "env", "--", "true").fails(125, "running a job needs root", "sudo envkit")
    for words, text in (
        (["create", "x", "--base", "tiny"], "opening a session needs root"),
        (["save", "env"], "needs root"),
        (["shell", "env"], "needs root"),
        (["status"], "needs root"),
        (["close", "env"], "needs root"),
        (["base", "import", "x", "/usr"], "importing a base needs root"),
        (["base", "build", "debian-12"], "building a base needs root"),
        (["doctor", "--fix"], "needs root"),
    ):
        as_nobody(lab, *words).fails(5, text)
    # A root directory is closed to everybody else.
    as_nobody(lab, "list").fails(7, "Permission denied")
    doctor = as_nobody(lab, "doctor")
    assert "Traceback" not in doctor.stderr
    assert "privilege" in doctor.stdout


def test_a_store_that_everybody_may_read_needs_no_privilege_to_look_at(lab, as_nobody, place):
    store = place / "store"
    shutil.copytree(f"{lab.root}/store", store)
    subprocess.run(["chmod", "-R", "a+rX", store], check=True)
    shared = Envkit(lab.root, store=str(store))
    assert "lab/env" in as_nobody(shared, "list").ok()
    assert "/opt/text" in as_nobody(shared, "files", "env", "--changed").ok()
    assert "lab/env@1" in as_nobody(shared, "info", "env").ok()
    as_nobody(shared, "delete", "env", "--yes").fails(7, f"cannot write to the store {store}")


# Damage


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "removed"])
def test_a_damaged_tree_is_named_and_never_used(lab, kind):
    change = {"flipped": _flip, "cut": lambda data: data[:-9], "empty": lambda _: b"", "removed": lambda _: None}[kind]
    for layer in (0, 1):
        path = _tree(lab, "env", layer)
        digest = os.path.basename(path)
        _forget(lab)
        with _changed(path, change):
            outcome = lab.sh("env", "cat /opt/text")
            outcome.fails(125, digest)
            assert not os.path.exists(f"{lab.root}/cache/trees/{digest}")
            assert not os.path.exists(f"{lab.root}/cache/layers/{digest}/image")
            lab("files", "env").fails(7 if kind == "removed" else 6, digest)
        assert lab.sh("env", "cat /opt/text").ok() == "text"


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "removed"])
def test_a_damaged_pack_is_named_and_no_wrong_byte_comes_out(lab, kind):
    change = {"flipped": _flip, "cut": lambda data: data[:-9], "empty": lambda _: b"", "removed": lambda _: None}[kind]
    right = lab("run", "-e", "env", "--eager", "--", "sha256sum", "/opt/blob").ok()
    for path in _packs(lab, "env") | _packs(lab, "base/tiny"):
        _forget(lab)
        with _changed(path, change):
            outcome = lab("run", "-e", "env", "--eager", "--", "sha256sum", "/opt/blob")
            outcome.fails(125, os.path.basename(path))
            images = [name for _, _, names in os.walk(f"{lab.root}/cache/layers") for name in names if "image" in name]
            assert len(images) < 2, "an image of the damaged layer was left"
        assert lab("run", "-e", "env", "--eager", "--", "sha256sum", "/opt/blob").ok() == right


def test_a_command_whose_reads_fail_is_told_why(lab):
    (pack,) = _packs(lab, "env") - _packs(lab, "base/tiny")
    lab("cache", "stop", "--force")
    _forget(lab)
    with _changed(pack, _flip):
        outcome = lab("run", "-e", "env", "--no-start-pack", "--", "sha256sum", "/opt/blob")
        assert outcome.code == 1, outcome
        assert "note: reads of env failed: " in outcome.stderr
        assert os.path.basename(pack) in outcome.stderr
    lab("cache", "stop", "--force")
    _forget(lab)


def test_a_save_stores_again_what_the_store_has_lost(lab):
    with lab.session("twin"):
        data = lab.start("run", "-e", "env", "--", "cat", "/opt/blob").communicate()[0]
        lab("exec", "twin", "--", "sh", "-c", "cat >/opt/blob", input=data).ok()
        with contextlib.ExitStack() as changes:
            for pack in _packs(lab, "env"):
                changes.enter_context(_changed(pack, lambda _: None))
            assert "storing again what 1 packs of the store had" in lab("save", "twin").stderr
            _forget(lab)
            assert lab("run", "-e", "twin", "--eager", "--", "cat", "/opt/blob").out == data
            lab.sh("env", "cat /opt/blob", options=("--eager",)).fails(125, "has no object packs/")


@pytest.mark.parametrize("kind", ["flipped", "cut", "empty", "text"])
def test_a_damaged_version_is_named(lab, kind):
    (path,) = _objects(lab, "envs/lab/env")
    change = {"flipped": _flip, "cut": lambda data: data[:-9], "empty": lambda _: b"", "text": lambda _: b"[1, 2]"}[
        kind
    ]
    with _changed(path, change):
        lab.sh("env", "true").fails(125, "envs/lab/env/00000001.json", "record")
        lab("info", "env").fails(6, "envs/lab/env/00000001.json")
        assert lab.sh("base/tiny", "echo fine").ok() == "fine"
    assert lab.sh("env", "cat /opt/text").ok() == "text"


def test_formats_of_a_later_envkit_are_refused_by_number(lab):
    (version,) = _objects(lab, "envs/lab/env")
    with _changed(version, lambda data: data.replace(b'"format": 1', b'"format": 2')):
        lab.sh("env", "true").fails(125, "format 2, this envkit reads format 1", "update envkit")
        lab("info", "env").fails(6, "format 2, this envkit reads format 1")
    with _changed(f"{lab.root}/store/format.json", lambda data: data.replace(b'"format": 1', b'"format": 2')):
        lab.sh("env", "true").fails(125, "has format 2, this envkit reads format 1", "update envkit")
        lab("list").fails(7, "has format 2", "update envkit")
        lab("create", "x", "--base", "tiny").fails(7, "has format 2")
    with _changed(f"{lab.root}/store/format.json", lambda _: b"{}"):
        lab("list").fails(7, "its format.json is damaged")
    assert lab.sh("env", "cat /opt/text").ok() == "text"


def test_a_damaged_session_record_is_named(lab):
    with lab.session("box"):
        path = f"{lab.directory('box')}/session.json"
        with open(path, "rb") as file:
            good = file.read()
        for bad in (b"", b"{}", good[:-20], good.replace(b'"format": 1', b'"format": 9')):
            with open(path, "wb") as file:
                file.write(bad)
            for words in (
                ["shell", "box"],
                ["save", "box"],
                ["close", "box", "--discard"],
                ["exec", "box", "--", "true"],
            ):
                lab(*words).fails(6, path)
        with open(path, "wb") as file:
            file.write(good)
        assert lab.inside("box", "echo fine").ok() == "fine"


def test_a_cache_that_is_not_what_it_was_is_replaced(lab):
    """Trees are checked on every use; a cached one that is wrong comes from the store again."""
    digest = os.path.basename(_tree(lab, "env"))
    lab.sh("env", "true").ok()
    path = f"{lab.root}/cache/trees/{digest}"
    for bad in (b"", b"garbage"):
        with open(path, "wb") as file:
            file.write(bad)
        shutil.rmtree(f"{lab.root}/cache/layers")
        assert lab.sh("env", "cat /opt/text").ok() == "text"
        with open(path, "rb") as file:
            assert file.read() != bad
    with open(f"{lab.root}/cache/index.sqlite", "wb") as file:
        file.write(b"this is no database, but long enough to look like one" * 100)
    with lab.session("again", script="echo x >/opt/x"):
        lab("save", "again").ok()


# Configuration and places


def test_a_configuration_that_cannot_be_used_is_told_with_file_and_key(lab, tmp_path):
    place = tmp_path / ".config" / "envkit"
    place.mkdir(parents=True)
    home = {"HOME": str(tmp_path)}
    for text, what in (
        ('colour = "red"\n', "unknown key 'colour'"),
        ("net = 3\n", "net must be a string"),
        ('net = "wifi"\n', "net must be one of none, nat, host"),
        ("net = \n", "not TOML, line 1, column 7"),
    ):
        (place / "config.toml").write_text(text)
        for words, code in ((["list"], 2), (["run", "-e", "env", "--", "true"], 125)):
            lab(*words, env=home).fails(code, f"{place}/config.toml", what)
    (place / "config.toml").write_text('net = "none"\nowner = "someone"\n')
    assert lab.sh("env", "ls /sys/class/net", env=home).ok() == "lo"
    lab("run", "-e", "env", "--", "true", env={"ENVKIT_NET": "wifi"}).fails(125, "ENVKIT_NET must be one of")
    lab("run", "-e", "env", "--", "true", env={"ENVKIT_ROOT": "relative"}).fails(125, "must be an absolute path")
    lab("info", "env", env={"ENVKIT_OWNER": "a/b"}).fails(2, "ENVKIT_OWNER must be a name")


def test_a_root_where_the_overlay_cannot_be_is_told(lab, disk):
    """An overlay cannot lie on an overlay."""
    place = f"{disk}/stacked"
    for name in ("lower", "upper", "work", "merged"):
        os.makedirs(f"{place}/{name}")
    options = f"lowerdir={place}/lower,upperdir={place}/upper,workdir={place}/work"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, f"{place}/merged"], check=True)
    try:
        stacked = Envkit(f"{place}/merged/root", store=f"{lab.root}/store")
        stacked.sh("env", "true").fails(125, "cannot mount the overlay", "ext4, XFS or Btrfs")
        stacked("create", "x", "--base", "tiny").fails(1, "cannot mount the overlay")
        assert stacked.json("status") == []
        doctor = stacked("doctor", "--json")
        (row,) = [row for row in json.loads(doctor.stdout) if row["name"] == f"overlay in {stacked.root}"]
        assert (doctor.code, row["ok"]) == (5, False)
        shutil.rmtree(stacked.run_directory)
    finally:
        subprocess.run(["umount", f"{place}/merged"], check=True)


def test_a_root_on_a_tmpfs_works_or_says_why(lab):
    """Since Linux 6.6 a tmpfs has what an upper needs."""
    shm = tempfile.mkdtemp(prefix="envkit-test-", dir="/dev/shm")
    envkit = Envkit(f"{shm}/root", store=f"{lab.root}/store")
    try:
        outcome = envkit.sh("env", "cat /opt/text")
        if outcome.code == 125:
            outcome.fails(125, "ext4, XFS or Btrfs")
        else:
            assert outcome.ok() == "text"
    finally:
        shutil.rmtree(shm)
        shutil.rmtree(envkit.run_directory)


@pytest.mark.parametrize("words", [["lst"], ["list", "--colour"], ["info"], ["create"], ["cp", "x"], ["exec", "x"]])
def test_a_wrong_command_line_gives_the_usage(lab, words):
    outcome = lab(*words)
    assert (outcome.code, outcome.out) == (2, b"")
    assert outcome.stderr.startswith("Usage: envkit")
    assert "Traceback" not in outcome.stderr


def test_a_reader_that_goes_away_is_no_error(lab):
    argv = lab.argv("files", "base/tiny")
    command = ["sh", "-c", '"$@" | head -n 1; exit 0', "sh", *argv]
    done = subprocess.run(command, env=lab.environment(), capture_output=True, timeout=60, check=False)
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""


def test_names_and_messages_cannot_drive_the_terminal(lab):
    evil = "\033[2J\033]0;owned\007 \u202etxt"
    with lab.session("evil", script="touch $(printf '/opt/\\033[31mred\\nnext')"):
        lab("save", "evil", "-m", evil).ok()
    for words in (["list"], ["info", "evil"], ["log", "evil"], ["files", "evil", "--changed"]):
        text = lab(*words).ok()
        assert "\033" not in text
        assert "\007" not in text
        assert "\u202e" not in text
    assert lab.json("info", "evil")["message"] == evil
