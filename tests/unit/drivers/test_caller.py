import os
import pwd
import signal
import threading

import pytest

from envkit.drivers import caller as module
from envkit.drivers import libc
from envkit.drivers.caller import Caller, UnsafeFile, find_caller, open_path, read_settings, rights_of
from envkit.errors import NotFound, Unavailable

NOBODY = pwd.getpwnam("nobody")
ROOT = Caller(uid=0, gid=0, name="", home="/root")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="sudo's variables count for root alone")


def test_without_sudo_it_is_this_process_at_home():
    assert find_caller({"HOME": "/h"}) == Caller(uid=os.getuid(), gid=os.getgid(), name="", home="/h")


def test_a_home_that_is_no_path_is_looked_up():
    home = pwd.getpwuid(os.getuid()).pw_dir
    assert [find_caller(variables).home for variables in ({}, {"HOME": ""}, {"HOME": "relative"})] == [home] * 3


@needs_root
def test_sudo_names_the_user_and_passwd_the_home():
    sudo = {"SUDO_UID": str(NOBODY.pw_uid), "SUDO_GID": str(NOBODY.pw_gid), "SUDO_USER": "nobody", "HOME": "/root"}
    assert find_caller(sudo) == Caller(uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, name="nobody", home=NOBODY.pw_dir)
    unknown = find_caller({"SUDO_UID": "54321", "HOME": "/root"})
    assert unknown == Caller(uid=54321, gid=54321, name="", home="")


@needs_root
@pytest.mark.parametrize("uid", ["", "0", "-1", "x", "1e3", "٣", "²", "4294967295", "9" * 30])
def test_what_is_no_user_id_is_no_user(uid):
    assert find_caller({"SUDO_UID": uid, "SUDO_GID": "5", "HOME": "/h"}) == find_caller({"HOME": "/h"})


def test_sudo_of_a_process_that_is_not_root_says_nothing(monkeypatch):
    monkeypatch.setattr(module.os, "getuid", lambda: 12_345)
    assert find_caller({"SUDO_UID": "1", "HOME": "/h"}).uid == 12_345


def test_what_is_not_there_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    assert read_settings(str(tmp_path / "missing"), ROOT, limit=9) is None
    assert read_settings(str(tmp_path / "file/below"), ROOT, limit=9) is None


def test_at_most_so_many_bytes_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"123456789")
    assert read_settings(str(tmp_path / "file"), ROOT, limit=9) == b"123456789"
    with pytest.raises(UnsafeFile, match="more than 8 bytes"):
        read_settings(str(tmp_path / "file"), ROOT, limit=8)
    assert read_settings("/proc/self/status", ROOT, limit=1 << 20)  # its size is 0 until it is read


def test_nothing_but_a_regular_file_is_read(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "fifo", tmp_path, "/dev/zero"):
        with pytest.raises(UnsafeFile, match="no regular file"):
            read_settings(str(path), ROOT, limit=9)
    with pytest.raises(UnsafeFile, match="symbolic links"):
        read_settings(str(tmp_path / "circle"), ROOT, limit=9)


@needs_root
def test_it_is_opened_with_the_rights_of_the_caller_and_of_nobody_else(tmp_path):
    nobody = Caller(uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, name="nobody", home="")
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        directory.chmod(0o755)
    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(0o644)
    assert read_settings(str(path), nobody, limit=9) == b"x"
    path.chmod(0o600)
    with pytest.raises(UnsafeFile, match="Permission denied"):
        read_settings(str(path), nobody, limit=9)
    (tmp_path / "link").symlink_to("/etc/shadow")
    with pytest.raises(UnsafeFile, match="Permission denied"):
        read_settings(str(tmp_path / "link"), nobody, limit=1 << 20)
    os.chown(path, nobody.uid, -1)
    assert read_settings(str(path), nobody, limit=9) == b"x"
    os.chown(path, 12_345, -1)
    path.chmod(0o644)
    with pytest.raises(UnsafeFile, match="neither to you nor to root"):
        read_settings(str(path), nobody, limit=9)
    assert (os.geteuid(), os.getegid()) == (0, 0)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"x")
    path.chmod(mode)
    with pytest.raises(UnsafeFile, match="others may write to it") as caught:
        read_settings(str(path), ROOT, limit=9)
    assert caught.value.resolution == f"run `chmod go-w {path}`"


@needs_root
def test_a_path_is_opened_only_where_the_caller_may_go(tmp_path):
    nobody = Caller(uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, name="nobody", home="")
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        directory.chmod(0o755)
    closed = tmp_path / "closed"
    (closed / "inside").mkdir(parents=True)
    (tmp_path / "link").symlink_to("closed/inside")
    before = (os.geteuid(), os.getegid(), os.getgroups())
    for path in ("closed", "closed/inside", "link"):
        os.close(open_path(str(tmp_path / path), nobody))
    closed.chmod(0o700)
    os.close(open_path(str(closed), nobody))  # the directory itself can be seen, and is of no use
    for path in ("closed/inside", "link"):
        with pytest.raises(Unavailable, match="with your rights"):
            open_path(str(tmp_path / path), nobody)
    os.close(open_path(str(closed / "inside"), ROOT))
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before


@needs_root
def test_the_groups_of_the_caller_count(tmp_path):
    for directory in (tmp_path, *list(tmp_path.parents)[:2]):
        directory.chmod(0o755)
    shared = tmp_path / "shared"
    (shared / "inside").mkdir(parents=True)
    os.chown(shared, 0, 54_500)
    shared.chmod(0o750)
    with pytest.raises(Unavailable):
        open_path(str(shared / "inside"), Caller(uid=54_501, gid=54_501, name="", home=""))
    os.close(open_path(str(shared / "inside"), Caller(uid=54_501, gid=54_500, name="", home="")))


def test_links_that_only_the_kernel_can_follow_are_refused(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        for path in (f"/proc/self/fd/{descriptor}", "/proc/self/root/etc", "/proc/1/cwd"):
            with pytest.raises(Unavailable, match="with your rights"):
                open_path(path, ROOT)
    finally:
        os.close(descriptor)


def test_a_path_that_is_not_there_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "missing", tmp_path / "file/below"):
        with pytest.raises(NotFound, match="does not exist"):
            open_path(str(path), ROOT)
    os.close(open_path(str(tmp_path / "file"), ROOT))


@needs_root
def test_who_dies_with_its_parent_still_does_after_acting_for_the_caller():
    """The kernel forgets that whenever these ids change."""
    nobody = Caller(uid=NOBODY.pw_uid, gid=NOBODY.pw_gid, name="nobody", home="")
    pid = os.fork()
    if pid == 0:
        libc.die_with_parent(signal.SIGKILL)
        with rights_of(nobody):
            forgotten = libc.death_signal() == 0
        os._exit(0 if forgotten and libc.death_signal() == signal.SIGKILL else 1)
    assert os.waitpid(pid, 0)[1] == 0


@needs_root
def test_other_threads_keep_their_rights_meanwhile():
    inside, leave = threading.Barrier(2), threading.Event()
    seen = []

    def act():
        with rights_of(Caller(uid=54_321, gid=54_321, name="", home="")):
            seen.append((os.geteuid(), os.getegid(), os.getgroups()))
            inside.wait(30)
            leave.wait(30)
        seen.append((os.geteuid(), os.getegid(), os.getgroups()))

    before = (os.geteuid(), os.getegid(), os.getgroups())
    thread = threading.Thread(target=act)
    thread.start()
    inside.wait(30)
    now = (os.geteuid(), os.getegid(), os.getgroups())
    leave.set()
    thread.join()
    assert seen == [(54_321, 54_321, [54_321]), before]
    assert now == before
