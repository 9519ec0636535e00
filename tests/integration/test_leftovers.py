"""Nothing stays behind a run, whatever ends it: no mount, loop device, process, control group, device or directory."""

import contextlib
import os
import signal
import subprocess
import time

import pytest
from commandline import ALICE, PATIENCE, read_until, wait_until
from traces import new_traces, traces

from envkit.drivers import cgroup

pytestmark = [pytest.mark.root, pytest.mark.lxc]

TINY = "base/tiny"
_WAIT = ["run", "-e", TINY, "--", "sh", "-c", "echo ready; read line; echo done"]
"""A run that says when it has started, and ends when its standard input does."""


@pytest.fixture
def before(envkit):
    """What there is before a test; at the end of the test there must be nothing more.

    The base is complete on this node, and no image server runs.
    """
    envkit("doctor", "--fix")
    envkit("cache", "warm", TINY).ok()
    envkit("cache", "stop", "--force").ok()
    found = traces(envkit)
    yield found
    envkit("cache", "stop").ok()
    assert new_traces(envkit, found) == []


@pytest.fixture
def running(envkit, before):
    """A run in the middle of its command, in a process group of its own."""
    with envkit.start(*_WAIT, stdin=subprocess.PIPE, start_new_session=True) as process:
        read_until(process.stdout, b"ready\n")
        yield process
        if process.poll() is None:
            process.kill()


def _processes(envkit):
    return [line for line in traces(envkit) if line.startswith("process ")]


def _containers(envkit):
    """Return the names of jobs' directories, of those that run and of dead ones."""
    return os.listdir(f"{envkit.root}/runs")


def _child(pid):
    """Return the only child of a process."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        (child,) = file.read().split()
    return int(child)


def test_a_hundred_runs_in_a_row_leave_nothing(envkit, before):
    expected = {"true": 0, "exit 3": 3, "kill -9 $$": 137, "sleep 1000 & sleep 1000 & exit 4": 4}
    scripts = list(expected)
    for number in range(100):
        script = scripts[number % len(scripts)]
        assert envkit.sh(TINY, script).code == expected[script]
    assert new_traces(envkit, before) == []


def test_refused_runs_leave_nothing(envkit, before):
    for words in (
        ["-e", TINY, "--", "no-such-command"],
        ["-e", TINY, "-w", "/nowhere", "--", "true"],
        ["-e", TINY, "-v", "/etc/passwd:/etc/passwd/below", "--", "true"],
        ["-e", TINY, "--env", "A=one\ntwo", "--", "true"],
        ["-e", TINY, "--env", "A B=1", "--", "true"],
    ):
        assert envkit("run", *words).code in (125, 127)
        assert new_traces(envkit, before) == [], words


def _run(*words):
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()


def test_the_checker_sees_what_is_left(envkit, before):
    """A control for all the others: each kind of trace is planted, seen, and seen to be gone."""
    group = (
        next(path for path in (f"{cgroup.ROOT}/pids", cgroup.ROOT) if os.path.isdir(path))
        + f"/lxc.payload.envkit-x{os.getpid()}"
    )
    instance = f"{envkit.root}/runs/x{os.getpid()}"
    place, image = f"{envkit.root}/planted", f"{envkit.root}/planted.img"
    with contextlib.ExitStack() as cleanup:

        def plant(kind, make, undo):
            made = make()
            cleanup.callback(undo, made)
            wait_until(lambda: any(line.startswith(kind) for line in traces(envkit) - before), f"{kind} is seen")
            cleanup.close()
            assert new_traces(envkit, before) == []

        def start(*words):
            return subprocess.Popen(words, env={"ENVKIT_ROOT": envkit.root} if words[0] == "/bin/sleep" else None)

        def stop(process):
            process.kill()
            process.wait()

        def touch():
            with open(image, "wb") as file:
                file.truncate(1 << 20)
            return _run("losetup", "--find", "--show", image)

        os.mkdir(place)
        try:
            script = f"mount -t tmpfs planted {place} && exec sleep 1000"
            plant("process", lambda: start("/bin/sleep", "1000"), stop)
            plant("process", lambda: start("unshare", "-m", "sh", "-c", script), stop)
            os.mkdir(instance)  # the record of it, without which another lane's it might be
            before.add(f"directory {instance}")
            plant("control group", lambda: os.mkdir(group), lambda _: os.rmdir(group))
            os.rmdir(instance)
            before.remove(f"directory {instance}")
            plant("directory", lambda: os.mkdir(f"{envkit.root}/runs/x"), lambda _: os.rmdir(f"{envkit.root}/runs/x"))
            plant("loop device", touch, lambda device: _run("losetup", "-d", device))
            veth = (f"envkit-x{os.getpid()}", "type", "veth", "peer", "name", f"peer-{os.getpid()}")
            unlink = ("ip", "link", "del", veth[0])
            plant(f"network device {veth[0]}", lambda: _run("ip", "link", "add", *veth), lambda _: _run(*unlink))
            tmpfs = ("mount", "-t", "tmpfs", "planted", place)
            plant("mount", lambda: _run(*tmpfs), lambda _: _run("umount", place))
        finally:
            cleanup.close()
            os.rmdir(place)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(image)


# Killed


def test_a_killed_envkit_takes_its_container_along_and_the_next_run_cleans_up(envkit, before, running):
    running.kill()
    wait_until(lambda: not _processes(envkit), "every process of the container ends", patience=2)
    assert _containers(envkit) != []
    assert envkit.sh(TINY, "true").code == 0
    assert _containers(envkit) == []
    assert new_traces(envkit, before) == []


def _leftovers(envkit):
    """Return what `doctor` says about leftovers."""
    (row,) = [row for row in envkit.json("doctor") if row["name"] == "leftovers"]
    return row["ok"], row["found"]


def test_doctor_cleans_up_after_a_killed_envkit_too(envkit, before, running):
    (name,) = _containers(envkit)
    assert _leftovers(envkit) == (True, "none")
    running.kill()
    running.wait()
    wait_until(lambda: not _processes(envkit), "every process of the container ends", patience=2)
    assert _leftovers(envkit) == (False, "1 dead jobs")
    assert f"removed what the dead container envkit-{name} left behind" in envkit("doctor", "--fix").stderr
    assert new_traces(envkit, before) == []


def test_doctor_leaves_a_run_alone_that_goes_on(envkit, running):
    assert "removed" not in envkit("doctor", "--fix").stderr
    out, err = running.communicate(b"\n", timeout=PATIENCE)
    assert (running.returncode, out, err) == (0, b"done\n", b"")


def test_a_killed_lxc_ends_the_run_and_leaves_nothing(envkit, before, running):
    os.kill(_child(running.pid), signal.SIGKILL)
    assert running.wait(PATIENCE) == 137
    assert new_traces(envkit, before) == []


def test_a_killed_run_of_a_user_leaves_nothing(envkit, before):
    """Who becomes another user loses the signal that comes when its parent dies, unless it is asked for again."""
    words = ("run", "-e", TINY, "--", "sh", "-c", "trap '' TERM; echo ready; sleep 1000")
    with envkit.start(*words, user=ALICE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.kill()
    wait_until(lambda: not _processes(envkit), "every process of the container ends", patience=10)
    envkit("doctor", "--fix")
    assert new_traces(envkit, before) == []


def test_a_killed_process_group_leaves_nothing(envkit, before, running):
    os.killpg(running.pid, signal.SIGKILL)
    wait_until(lambda: not _processes(envkit), "every process of the container ends", patience=2)
    envkit("doctor", "--fix")
    assert new_traces(envkit, before) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_a_signal_at_any_moment_leaves_nothing(envkit, before, number):
    """From the interpreter's start over mounting and LXC's preparations to the command."""
    codes = set()
    for step in range(12):
        with envkit.start("run", "-e", TINY, "--", "sh", "-c", "echo ready; exec sleep 1000") as process:
            time.sleep(step * 0.025)
            process.send_signal(number)
            try:
                codes.add(process.wait(PATIENCE))
            except subprocess.TimeoutExpired:
                process.kill()
                raise
            if number is not signal.SIGKILL:
                err = process.stderr.read().decode()
                # Python itself dies of an early SIGINT with a traceback of its own, before envkit has done anything.
                assert ", in main" not in err, err
                assert new_traces(envkit, before) == [], f"after {step * 25} ms"
    assert 0 not in codes
    # LXC's child that was never told who its parent is waits for that, until the next command finds it.
    assert envkit.sh(TINY, "echo fine").ok() == "fine"
    wait_until(lambda: not _processes(envkit), "every process of the containers ends", patience=2)
    assert new_traces(envkit, before) == []


# Side by side


def _layers(pid):
    """Return (place, device number) of each EROFS that a process sees below a `layers` directory."""
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8") as file:
        lines = [line.split(" ") for line in file if " - erofs " in line]
    return {(words[4], words[2]) for words in lines if "/layers/" in words[4]}


def test_eight_runs_at_once_share_the_layers_and_all_succeed(envkit, before):
    env = envkit.saved("layered", "echo x >/opt/x")
    # Without: the one whose first touches are recorded has mounts of its own.
    command = ["run", "-e", env, "--no-start-pack", *_WAIT[3:]]
    processes = [envkit.start(*command, stdin=subprocess.PIPE) for _ in range(8)]
    try:
        for process in processes:
            read_until(process.stdout, b"ready\n")
        layers = [_layers(process.pid) for process in processes]
        assert len(layers[0]) == 2
        assert all(one == layers[0] for one in layers), "each run mounted the images for itself"
        assert len(_containers(envkit)) == 8
        # The first to start goes first: the others must not lose the layers with it.
        for process in processes:
            out, err = process.communicate(b"\n", timeout=PATIENCE)
            assert (process.returncode, out, err) == (0, b"done\n", b"")
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                stream.close()
    envkit("cache", "stop").ok()
    assert new_traces(envkit, before) == []


def test_eight_first_runs_at_once_build_the_images_once(envkit, before, disk):
    env = envkit.saved("fresh", "dd if=/dev/urandom of=/opt/blob bs=1M count=8 2>/dev/null")
    subprocess.run(["rm", "-rf", f"{envkit.root}/cache"], check=True)
    processes = [envkit.start("run", "-e", env, "--", "sha256sum", "/opt/blob") for _ in range(8)]
    outcomes = [(*process.communicate(timeout=PATIENCE), process.returncode) for process in processes]
    assert {code for _, _, code in outcomes} == {0}, outcomes
    assert len({out for out, _, _ in outcomes}) == 1
    envkit("cache", "stop").ok()
    assert new_traces(envkit, before) == []


def test_a_loop_device_is_gone_after_the_run(envkit, before):
    """How images are mounted on kernels before 6.12."""
    with envkit.start(*_WAIT, stdin=subprocess.PIPE, env={"ENVKIT_LOOP": "1"}) as process:
        read_until(process.stdout, b"ready\n")
        assert len([line for line in traces(envkit) if line.startswith("loop device")]) == 1
        # A second run shares the first one's device, and keeps it when the first has ended.
        second = envkit.start(*_WAIT, stdin=subprocess.PIPE, env={"ENVKIT_LOOP": "1"})
        read_until(second.stdout, b"ready\n")
        assert len([line for line in traces(envkit) if line.startswith("loop device")]) == 1
        assert process.communicate(b"\n", timeout=PATIENCE)[0] == b"done\n"
        assert len([line for line in traces(envkit) if line.startswith("loop device")]) == 1
        assert second.communicate(b"\n", timeout=PATIENCE)[0] == b"done\n"
    assert new_traces(envkit, before) == []


def test_the_nat_network_of_a_run_is_gone_after_it(envkit, before):
    script = "cat /sys/class/net/eth0/iflink; echo ready; read line"
    command = ["run", "-e", TINY, "--net", "nat", "--", "sh", "-c", script]
    for end in ("return", "kill"):
        with envkit.start(*command, stdin=subprocess.PIPE) as process:
            index = int(read_until(process.stdout, b"ready\n").split()[0])
            assert os.path.isdir(f"/sys/class/net/{_device(index)}")
            if end == "kill":
                process.kill()
            process.communicate(b"\n" if end == "return" else None, timeout=PATIENCE)
        wait_until(lambda: _device(index) is None, "the device goes with the container", patience=5)  # noqa: B023
        envkit("doctor", "--fix")
    assert new_traces(envkit, before) == []


def _device(index):
    import socket

    return dict(socket.if_nameindex()).get(index)
