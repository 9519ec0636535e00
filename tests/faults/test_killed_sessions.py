"""Kills of a save in the middle of a running session: it is not lost and not left frozen, and runs show what was saved."""

import hashlib
import io
import os
import random
import signal
import tarfile

import pytest
from faults.scenarios import SEED
from faults.second_reader import SecondReader

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_SUM = "cd /opt/many && find . -type f -exec sha256sum {} + | sort"


def _write(envkit, name, rng, *, seed):
    """Write some hundred files in a session; return what `_SUM` prints."""
    archive, sums = io.BytesIO(), []
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(200):
            data = rng.randbytes(rng.choice((0, 100, 3000, 20_000)) + seed)
            info = tarfile.TarInfo(f"f{number}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            sums.append(f"{hashlib.sha256(data).hexdigest()}  ./f{number}")
    envkit.inside(name, "mkdir -p /opt/many; tar -xf - -C /opt/many", input=archive.getvalue()).ok()
    return "\n".join(sorted(sums))


def _numbers(envkit, name):
    outcome = envkit("log", name, "--json")
    return [] if outcome.code else sorted(row["version"] for row in envkit.json("log", name))


def test_a_killed_save_of_a_running_session_freezes_nothing_and_loses_nothing(envkit):
    name, rng, reader = "killed", random.Random(SEED), SecondReader(f"{envkit.root}/store")
    with envkit.session(name):
        contents = {}
        for seed, point in enumerate(("store:pack", "save:pending", "save:published")):
            expected = _write(envkit, name, rng, seed=seed)
            known = _numbers(envkit, name)
            assert envkit("save", name, env={"ENVKIT_CRASH": point}).code == -signal.SIGKILL
            envkit("exec", name, "--", "true", patience=10).ok()
            assert _numbers(envkit, name) in (known, [*known, len(known) + 1])
            envkit("save", name).ok()
            newest = max(_numbers(envkit, name))
            assert newest == len(known) + 1
            contents[newest] = expected
            assert envkit.inside(name, _SUM).ok() == expected
        for number, expected in contents.items():
            assert envkit.sh(f"{name}@{number}", _SUM).ok() == expected
        assert len(reader.versions()[f"lab/{name}"]) == len(contents)


def test_what_a_killed_save_was_writing_is_gone_after_the_next_session_was_opened(envkit):
    name = "unfinished"
    envkit.saved(name, "echo 1 >/opt/x")
    with envkit.start("exec", "nothing", "--", "true") as process:
        gone = process.pid
        process.wait()
    left = f"{envkit.root}/cache/trees/{'0' * 64}.{gone}.new"
    with open(left, "wb") as file:
        file.write(b"half")
    with envkit.session(name, origin=name):
        assert not os.path.exists(left)
