"""The store in a directory: what it does to the disk, in which order, and what is left when something fails."""

import contextlib
import errno
import os
import signal
import stat

import pytest

from envkit.errors import EXIT_STORE
from envkit.store.directory import DirectoryStore
from envkit.store.errors import StoreFull, StoreUnreadable, StoreUnwritable

KEY = "packs/ab/object"


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(str(tmp_path))


def files_below(path):
    """All files by path relative to `path`, temporary ones too."""
    return sorted(
        os.path.relpath(os.path.join(folder, name), path) for folder, _, names in os.walk(path) for name in names
    )


class Recorder:
    """Stands before functions of `os`: writes down the calls that change or sync the store, and can make one fail."""

    names = ("mkdir", "open", "write", "fsync", "close", "link", "unlink")

    def __init__(self, monkeypatch, root):
        self.calls = []
        self.fail_at = None
        self.error = None
        self._root = str(root)
        for name in self.names:
            monkeypatch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name, real):
        def call(*arguments, **options):
            what = self._describe(name, arguments)
            if what is None:
                return real(*arguments, **options)
            self.calls.append(what)
            if len(self.calls) - 1 != self.fail_at:
                return real(*arguments, **options)
            if name == "close":
                real(*arguments, **options)
            if self.error == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(self.error, os.strerror(self.error))

        return call

    def _describe(self, name, arguments):
        if name == "open":
            return ("create", "temporary") if arguments[1] & os.O_CREAT else None
        if name in ("mkdir", "link", "unlink"):
            return (name, *("temporary" if part.startswith("~") else part for part in arguments if part.strip("/")))
        path = os.path.relpath(os.readlink(f"/proc/self/fd/{arguments[0]}"), self._root)
        if name == "close" and "~" not in path:
            return None
        return (name, "temporary" if "~" in path else path)


def test_an_object_gets_its_name_after_its_bytes_are_on_disk_and_counts_after_its_name_is(tmp_path, monkeypatch, store):
    recorder = Recorder(monkeypatch, tmp_path)
    assert store.put_if_absent(KEY, (b"one", b"two")) is True
    assert recorder.calls == [
        ("mkdir", "packs"),
        ("fsync", "."),
        ("mkdir", "ab"),
        ("fsync", "packs"),
        ("create", "temporary"),
        ("write", "temporary"),
        ("write", "temporary"),
        ("fsync", "temporary"),
        ("close", "temporary"),
        ("link", "temporary", "object"),
        ("unlink", "temporary"),
        ("fsync", "packs/ab"),
    ]


def test_directories_are_made_and_synced_once(tmp_path, monkeypatch, store):
    store.put_if_absent(KEY, b"")
    recorder = Recorder(monkeypatch, tmp_path)
    store.put_if_absent("packs/ab/other", b"")
    assert [call for call in recorder.calls if call[0] in ("mkdir", "fsync")] == [
        ("fsync", "temporary"),
        ("fsync", "packs/ab"),
    ]


def test_what_another_process_put_is_synced_before_it_counts_as_there(tmp_path, monkeypatch, store):
    store.put_if_absent(KEY, b"")
    recorder = Recorder(monkeypatch, tmp_path)
    assert DirectoryStore(str(tmp_path)).put_if_absent(KEY, b"other") is False
    assert [call for call in recorder.calls if call[0] == "fsync"] == [
        ("fsync", "."),
        ("fsync", "packs"),
        ("fsync", "packs/ab"),
    ]
    assert not any(call[0] in ("create", "write") for call in recorder.calls)


STEPS = 11
"""Calls of a put into a new directory, with one piece."""


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT], ids=errno.errorcode.get)
@pytest.mark.parametrize("step", range(STEPS))
def test_an_error_at_any_step_is_told_and_leaves_all_or_nothing(tmp_path, monkeypatch, store, step, error):
    with monkeypatch.context() as patched:
        recorder = Recorder(patched, tmp_path)
        recorder.fail_at, recorder.error = step, error
        failed = _put(store)
        if failed is not None:
            assert type(failed) is (StoreUnwritable if error == errno.EIO else StoreFull)
            assert failed.exit_code == EXIT_STORE
            assert str(tmp_path) in failed.brief
            assert os.strerror(error) in failed.brief
            assert failed.resolution
        name, target = recorder.calls[step][:2]
        assert (failed is None) == (name == "unlink"), "only a temporary file that stays is no failure"
        if name in ("write", "fsync", "close"):
            assert recorder.calls.count((name, target)) == 1, "a failed call was repeated on the same descriptor"
    left = files_below(tmp_path)
    if name == "unlink":
        assert len(left) == 2
    else:
        # Only the sync of the directory comes after the name is given.
        assert left == ([KEY] if target == "packs/ab" else [])
    assert list(store.list()) == [name for name in left if "~" not in name]
    assert store.put_if_absent(KEY, b"bytes") is (left == [])
    assert store.get(KEY, limit=9) == b"bytes"


def _put(store):
    try:
        store.put_if_absent(KEY, b"bytes")
    except (StoreUnwritable, StoreFull) as failed:
        return failed
    return None


@pytest.mark.parametrize("step", range(STEPS))
def test_a_writer_killed_at_any_step_leaves_all_or_nothing(tmp_path, monkeypatch, store, step):
    child = os.fork()
    if not child:
        recorder = Recorder(monkeypatch, tmp_path)
        recorder.fail_at, recorder.error = step, "kill"
        _put(store)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert list(store.list()) in ([], [KEY])
    if list(store.list()):
        assert store.get(KEY, limit=9) == b"bytes"
    store.put_if_absent(KEY, b"bytes")
    assert store.get(KEY, limit=9) == b"bytes"
    store.remove_leftovers(older_than=-1)
    assert files_below(tmp_path) == [KEY]


def test_leftovers_are_removed_by_age_and_nothing_else_is(tmp_path, store):
    store.put_if_absent(KEY, b"bytes")
    for name, age in (("~tmp.old", 7200), ("~tmp.young", 60)):
        path = tmp_path / "packs/ab" / name
        path.write_bytes(b"half")
        os.utime(path, (path.stat().st_mtime - age,) * 2)
    os.utime(tmp_path / KEY, (0, 0))
    assert store.remove_leftovers(older_than=3600) == 1
    assert files_below(tmp_path) == ["packs/ab/object", "packs/ab/~tmp.young"]


def test_leftovers_that_vanish_while_they_are_looked_at_are_passed_over(tmp_path, monkeypatch, store):
    store.put_if_absent(KEY, b"bytes")
    for name in ("packs/ab/~tmp.0", "packs/ab/~tmp.1", "packs/ab/~tmp.2"):
        (tmp_path / name).write_bytes(b"half")
    real = os.scandir

    @contextlib.contextmanager
    def scandir(folder):
        with real(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
        # Its writer gives the first one its name, and removes this one, between the listing and the look at it.
        for entry in listed:
            if entry.name == "~tmp.0":
                os.unlink(entry.name, dir_fd=folder)
        yield iter(listed)

    monkeypatch.setattr(os, "scandir", scandir)
    assert store.remove_leftovers(older_than=-1) == 2
    monkeypatch.undo()
    assert files_below(tmp_path) == [KEY]


def test_a_repeated_nfs_request_that_hears_exists_about_its_own_link_has_won(tmp_path, monkeypatch, store):
    real = os.link

    def link(*arguments, **options):
        real(*arguments, **options)
        raise FileExistsError(errno.EEXIST, "File exists")

    monkeypatch.setattr(os, "link", link)
    assert store.put_if_absent(KEY, b"bytes") is True
    assert files_below(tmp_path) == [KEY]


def test_a_name_taken_between_looking_and_linking_is_lost(tmp_path, monkeypatch, store):
    real = os.link

    def link(*arguments, **options):
        monkeypatch.setattr(os, "link", real)
        assert DirectoryStore(str(tmp_path)).put_if_absent(KEY, b"theirs") is True
        real(*arguments, **options)

    monkeypatch.setattr(os, "link", link)
    assert store.put_if_absent(KEY, b"ours") is False
    assert store.get(KEY, limit=9) == b"theirs"
    assert files_below(tmp_path) == [KEY]


def test_a_filesystem_without_hard_links_is_refused_in_clear_words(monkeypatch, store):
    def link(*_arguments, **_options):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(StoreUnwritable, match="its filesystem makes no hard links") as caught:
        store.put_if_absent(KEY, b"")
    assert caught.value.resolution == "use a directory on ext4, XFS, Btrfs, NFS or Lustre"


def test_short_reads_and_writes_are_continued(monkeypatch, store):
    write, pread = os.write, os.pread
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    monkeypatch.setattr(os, "pread", lambda fd, length, start: pread(fd, min(length, 4), start))
    store.put_if_absent(KEY, b"0123456789")
    assert store.get(KEY, limit=10) == b"0123456789"
    assert store.get_range(KEY, 2, 7) == b"2345678"


def test_a_read_error_is_told_with_the_object(monkeypatch, store):
    store.put_if_absent(KEY, b"bytes")

    def pread(*_arguments):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(StoreUnreadable, match=f"{KEY}: Input/output error"):
        store.get(KEY, limit=9)


def test_a_store_that_went_away_is_not_an_empty_store(tmp_path):
    store = DirectoryStore(str(tmp_path / "gone"))
    verbs = [
        lambda: store.get(KEY, limit=1),
        lambda: store.size(KEY),
        lambda: list(store.list()),
        lambda: store.put_if_absent(KEY, b""),
        lambda: store.delete(KEY),
        lambda: store.remove_leftovers(older_than=0),
    ]
    for verb in verbs:
        with pytest.raises(
            StoreUnreadable, match=r"cannot read the store .*/gone: No such file or directory"
        ) as caught:
            verb()
        assert caught.value.exit_code == EXIT_STORE
        assert "whether its filesystem is mounted" in caught.value.resolution


@pytest.fixture
def outside(tmp_path_factory):
    """A directory beside the store, with an object that the store must not reach."""
    path = tmp_path_factory.mktemp("outside")
    (path / "object").write_bytes(b"secret")
    return path


def _object_is_a_link(root, outside):
    (root / "packs/ab").mkdir(parents=True)
    (root / KEY).symlink_to(outside / "object")


def _object_is_a_dangling_link(root, outside):
    (root / "packs/ab").mkdir(parents=True)
    (root / KEY).symlink_to(outside / "new")


def _directory_is_a_link(root, outside):
    (root / "packs").mkdir()
    (root / "packs/ab").symlink_to(outside)


def _first_directory_is_a_link(root, outside):
    (outside / "ab").symlink_to(outside)
    (root / "packs").symlink_to(outside)


def _object_is_a_fifo(root, _outside):
    (root / "packs/ab").mkdir(parents=True)
    os.mkfifo(root / KEY)


def _object_is_a_directory(root, _outside):
    (root / KEY).mkdir(parents=True)


def _directory_is_a_file(root, _outside):
    (root / "packs").mkdir()
    (root / "packs/ab").write_bytes(b"")


PLANTED = [
    _object_is_a_link,
    _object_is_a_dangling_link,
    _directory_is_a_link,
    _first_directory_is_a_link,
    _object_is_a_fifo,
    _object_is_a_directory,
    _directory_is_a_file,
]


@pytest.mark.parametrize("plant", PLANTED)
def test_nothing_but_files_in_directories_is_read_or_written(tmp_path, outside, store, plant):
    plant(tmp_path, outside)
    before = files_below(outside)
    verbs = [
        lambda: store.get(KEY, limit=99),
        lambda: store.get_range(KEY, 0, 1),
        lambda: store.size(KEY),
        lambda: store.put_if_absent(KEY, b"mine"),
    ]
    for verb in verbs:
        with pytest.raises(StoreUnreadable, match=r"packs.* is a symbolic link or a special file"):
            verb()
    assert files_below(outside) == before
    assert (outside / "object").read_bytes() == b"secret"


@pytest.mark.parametrize(
    "plant", [_object_is_a_link, _directory_is_a_link, _first_directory_is_a_link, _object_is_a_fifo]
)
def test_a_listing_stops_at_a_link_instead_of_leaving_it_out(tmp_path, outside, store, plant):
    plant(tmp_path, outside)
    with pytest.raises(StoreUnreadable, match=r"packs.* is a symbolic link or a special file") as caught:
        list(store.list())
    assert caught.value.resolution == "remove it, or put the real files in its place"


def test_deleting_does_not_leave_the_store(tmp_path, outside, store):
    _directory_is_a_link(tmp_path, outside)
    with pytest.raises(StoreUnreadable):
        store.delete(KEY)
    assert (outside / "object").exists()


def test_the_store_itself_may_be_reached_by_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    DirectoryStore(str(tmp_path / "link")).put_if_absent(KEY, b"bytes")
    assert DirectoryStore(str(tmp_path / "real")).get(KEY, limit=9) == b"bytes"


def test_foreign_names_are_left_out_of_listings_only_if_they_could_not_be_keys(tmp_path, store):
    store.put_if_absent("a/b", b"")
    for name in ("lost+found", "a/~tmp.1234", "a/.nfs 1", "a/ä", os.fsdecode(b"a/\xff"), "a/README.txt"):
        (tmp_path / name).write_bytes(b"")
    assert list(store.list()) == ["a/README.txt", "a/b"]


def test_objects_cannot_be_written_by_accident_and_follow_the_umask(tmp_path, store):
    store.put_if_absent(KEY, b"")
    assert stat.S_IMODE((tmp_path / KEY).stat().st_mode) == 0o444
    before = os.umask(0o077)
    try:
        store.put_if_absent("trees/cd/object", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "trees/cd/object").stat().st_mode) == 0o400
    assert stat.S_IMODE((tmp_path / "trees/cd").stat().st_mode) == 0o700


def test_descriptors_are_closed_also_after_errors(tmp_path, outside, store):
    store.put_if_absent(KEY, b"bytes")
    _object_is_a_link(tmp_path / "packs", outside)
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        store.get(KEY, limit=9)
        assert store.size("no/such/thing") is None
        assert store.put_if_absent(KEY, b"") is False
        next(store.list())
        with pytest.raises(StoreUnreadable):
            store.get("packs/packs/ab/object", limit=9)
    assert os.listdir("/proc/self/fd") == before
