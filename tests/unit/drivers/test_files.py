import os
import threading

import pytest

from envkit.drivers.errors import KernelRefused
from envkit.drivers.files import is_locked, locked, read_bounded, remove_tree, try_lock, write_atomic


def test_a_tree_is_removed_whatever_is_in_it(tmp_path):
    top = tmp_path / "top"
    (top / "closed").mkdir(parents=True)
    (top / "closed" / "x").write_text("x")
    os.mkfifo(top / "fifo")
    (top / "link").symlink_to("/etc")
    (top / b"\xff\n".decode("utf-8", "surrogateescape")).write_text("odd")
    (top / "closed").chmod(0)
    remove_tree(str(top))
    assert not top.exists()
    assert os.path.isdir("/etc")


def test_depth_costs_nothing(tmp_path):
    top = tmp_path / "top"
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d" * 40, dir_fd=fd)
        below = os.open("d" * 40, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(str(top))
    assert not top.exists()


def test_a_symlink_is_removed_and_not_followed(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "x").write_text("x")
    (tmp_path / "link").symlink_to("kept")
    remove_tree(str(tmp_path / "link"))
    assert (tmp_path / "kept" / "x").exists()
    assert not (tmp_path / "link").is_symlink()


def test_removing_what_is_not_there_is_no_error(tmp_path):
    remove_tree(str(tmp_path / "none"))
    remove_tree(str(tmp_path / "none" / "none"))


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "f"
    path.write_text("a long old text")
    write_atomic(str(path), b"new", mode=0o640)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["f"]
    with pytest.raises(KernelRefused, match="cannot write"):
        write_atomic(str(tmp_path / "no" / "f"), b"x")


def test_reading_is_bounded(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_bounded(str(path), 5) == b"12345"
    assert read_bounded(str(tmp_path / "none"), 5) is None
    with pytest.raises(KernelRefused, match="File too large"):
        read_bounded(str(path), 4)


def test_a_lock_is_held_by_one(tmp_path):
    path = str(tmp_path / "lock")
    assert not is_locked(path)
    held = try_lock(path)
    assert held is not None
    assert is_locked(path)
    assert try_lock(path) is None
    os.close(held)
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)


def test_several_may_remove_the_same_tree(tmp_path):
    names = [f"top/{number}/{name}" for number in range(30) for name in "abcdef"]
    failures = []

    def remove():
        try:
            remove_tree(str(tmp_path / "top"))
        except KernelRefused as error:
            failures.append(error)

    for _ in range(20):
        for name in names:
            (tmp_path / name).mkdir(parents=True)
        threads = [threading.Thread(target=remove) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert not (tmp_path / "top").exists()
