"""Owns the judgement of a disk that a power cut left: mounted on this machine, it has everything that was promised.

The kernel replays the journal, as after a boot. The store is read by the second reader before envkit has a chance to put
anything right; then envkit itself goes on as if nothing had happened.
"""

import contextlib
import hashlib
import shlex
import shutil
import subprocess

from commandline import Envkit
from faults.second_reader import SecondReader, Unreadable
from vm.power import AFTER, KEPT


def judge(moment, directory, *, session=None):
    """Mount what a cut would have left; return how many loose files are lost.

    :param directory: an empty one, to mount it on.
    :param session: an open session on the disk, in which `BEFORE` was done; it has to go on, and is saved.
    :raises AssertionError: a promise was broken.
    """
    with _mounted(moment.path, directory):
        _whole(f"{directory}/root/store", moment.promises.saved)
        envkit = Envkit(f"{directory}/root")
        try:
            _goes_on(envkit, moment.promises.saved, session)
        finally:
            # Containers and an image server have mounts of their own, and would keep this one after its end here.
            if session is not None:
                envkit("close", session, "--discard")
            envkit("cache", "stop", "--force")
            # As a boot does, for the next one that is mounted here.
            shutil.rmtree(envkit.run_directory, ignore_errors=True)
        return sum(not _has(f"{directory}/loose/{name}", digest) for name, digest in moment.promises.loose.items())


def judge_store(moment, directory):
    """Mount what a cut would have left, and only read what is in the store; otherwise as `judge`."""
    with _mounted(moment.path, directory):
        _whole(f"{directory}/root/store", moment.promises.saved)


@contextlib.contextmanager
def _mounted(disk, directory):
    """A context in which a disk is mounted. What cannot be mounted is not what ext4 and a flush have promised."""
    done = subprocess.run(["mount", "-o", "loop", disk, directory], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"it cannot be mounted: {done.stderr}"
    try:
        yield
    finally:
        subprocess.run(["umount", directory], check=True)


def _whole(store, saved):
    """Every version in the store is whole, and those that were promised are there with their contents."""
    reader = SecondReader(store)
    try:
        versions = reader.versions()
        for name, digest in saved.items():
            env, _, number = name.rpartition("@")
            record = versions.get(env, {}).get(int(number))
            assert record is not None, f"{name} is gone"
            trees = (reader.layer(layer["tree"]) for layer in reversed(record["layers"]))
            content = next((items[b"opt/file"].content for items in trees if b"opt/file" in items), b"")
            assert hashlib.sha256(content).hexdigest() == digest, f"{name} has another content"
    except Unreadable as error:
        raise AssertionError(f"the store is not whole: {error}") from error


def _goes_on(envkit, saved, session):
    """What is there runs, and the next saves work."""
    for name in [*saved][-1:]:
        digest = envkit("run", "-e", name, "--", "sha256sum", "/opt/file").ok().split()[0]
        assert digest == saved[name], f"{name} runs with another content"
    if session is not None:
        said = envkit("exec", session, "--", *shlex.split(AFTER)).ok()
        assert said == KEPT, f"the session says {said!r}"
        envkit("save", session, "--close").ok()
    with envkit.session("next", script="echo next >/opt/next"):
        envkit("save", "next").ok()
    envkit("verify", "--data").ok()


def _has(path, digest):
    """Tell whether a file is there with its content."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest() == digest
    except FileNotFoundError:
        return False
