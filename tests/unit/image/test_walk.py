import errno
import os

import pytest

from envkit.image.walk import Walk, clear, is_directory, remove


@pytest.fixture
def top(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_a_walk_goes_down_and_comes_back_up(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    with Walk(str(tmp_path)) as walk:
        walk.enter(b"a")
        walk.enter("b")
        os.mkdir("made", dir_fd=walk.fd)
        walk.leave()
        walk.leave()
        assert os.fstat(walk.fd).st_ino == tmp_path.stat().st_ino
    assert (tmp_path / "a/b/made").is_dir()


def test_a_walk_does_not_enter_symlinks_or_files(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "file").touch()
    with Walk(str(tmp_path)) as walk:
        for name in (b"link", b"file"):
            with pytest.raises(NotADirectoryError):
                walk.enter(name)
        walk.enter(b"a")


def test_a_walk_stops_where_its_directory_was_moved_away(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    with Walk(str(tmp_path)) as walk:
        walk.enter(b"a")
        walk.enter(b"b")
        (tmp_path / "a/b").rename(tmp_path / "c/b")
        with pytest.raises(OSError, match="Stale file handle") as caught:
            walk.leave()
        assert caught.value.errno == errno.ESTALE


def test_remove_deletes_anything_and_never_what_a_symlink_names(tmp_path, top):
    (tmp_path / "kept/inside").mkdir(parents=True)
    (tmp_path / "tree/a/b").mkdir(parents=True)
    (tmp_path / "tree/a/link").symlink_to(tmp_path / "kept")
    (tmp_path / "tree/c").mkdir()
    (tmp_path / "tree/c/file").touch()
    (tmp_path / "link").symlink_to("kept")
    for name in (b"tree", b"link", b"never-there"):
        remove(top, name)
    assert os.listdir(tmp_path) == ["kept"]
    assert os.listdir(tmp_path / "kept") == ["inside"]


def test_clear_leaves_an_empty_directory(tmp_path, top):
    for number in range(30):
        (tmp_path / f"d{number}" / "below").mkdir(parents=True)
        (tmp_path / f"f{number}").touch()
    clear(top)
    assert os.listdir(tmp_path) == []


def test_only_a_directory_itself_is_one(tmp_path, top):
    (tmp_path / "d").mkdir()
    (tmp_path / "l").symlink_to("d")
    assert [is_directory(top, name) for name in (b"d", b"l", b"missing")] == [True, False, False]
