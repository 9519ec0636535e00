import os
import pwd

import pytest

from envkit.drivers import caller as module
from envkit.drivers.caller import Caller, UnsafeFile, find_caller, read_settings

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
