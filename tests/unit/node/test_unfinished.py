import os
import subprocess

from envkit.drivers.files import try_lock
from envkit.model.paths import Paths
from envkit.node.unfinished import sweep_unfinished


def _file(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return str(path)


def _gone():
    """The pid of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_what_a_process_that_is_gone_was_writing_is_removed_and_nothing_else(tmp_path):
    paths = Paths.at(str(tmp_path))
    gone, mine = _gone(), os.getpid()
    doomed = [
        _file(tmp_path / f"cache/trees/aa.{gone}.new"),
        _file(tmp_path / f"sessions/lab/sci/session.json.{gone}.new"),
        _file(tmp_path / f"cache/records/id/envs/lab/sci/1.{gone}.new"),
        _file(tmp_path / "cache/layers/bb/image.new"),
    ]
    kept = [
        _file(tmp_path / f"cache/trees/aa.{mine}.new"),
        _file(tmp_path / "cache/trees/aa"),
        _file(tmp_path / "cache/trees/odd.new"),
        _file(tmp_path / "sessions/lab/sci/session.json"),
        _file(tmp_path / f"sessions/lab/sci/upper/x.{gone}.new"),
        _file(tmp_path / "cache/layers/bb/image"),
        _file(tmp_path / "cache/layers/cc/image.new"),
    ]
    lock = try_lock(str(tmp_path / "cache/layers/cc/lock"))
    assert sorted(sweep_unfinished(paths)) == sorted(doomed)
    assert [path for path in doomed if os.path.exists(path)] == []
    assert [path for path in kept if not os.path.exists(path)] == []
    os.close(lock)
    assert sweep_unfinished(paths) == [kept[-1]]


def test_a_root_that_has_nothing_yet_has_nothing_unfinished(tmp_path):
    assert sweep_unfinished(Paths.at(str(tmp_path / "none"))) == []
