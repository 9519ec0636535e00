"""Tasks as a queue starts them: orders made by hand, a store in a directory, real containers."""

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time

import pytest
from commandline import ALICE, CHECKOUT, read_until, wait_until

from envkit.config.model import Config
from envkit.model.job import Job, Volume
from envkit.model.jobid import MAX_NUMBER
from envkit.model.order import TASK_NUMBER, Input, Kind, Order, Resources
from envkit.model.task import State
from envkit.model.version import LayerRef
from envkit.services.context import Context
from envkit.services.jobs.output import read_output
from envkit.store import layout, orders, versions

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
INSIDE = ("CUDA_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "SLURMD_NODENAME")


class Desk:
    """Where orders are placed, started as a queue would, and looked at afterwards."""

    def __init__(self, envkit):
        self.envkit = envkit
        self.context = Context(Config(root=envkit.root, owner="lab"))
        self.store = self.context.store
        self.version = versions.resolve(self.store, self.context.ref("base/tiny"))

    def order(self, *command, kind=Kind.COMMAND, input=None, job=None, **fields):
        if isinstance(input, bytes):
            input = Input(digest=hashlib.sha256(input).hexdigest(), size=len(input))
        fields = {
            "token": secrets.token_hex(16),
            "owner": "lab",
            "uid": 0,
            "gid": 0,
            "env": self.version.env,
            "version": self.version.number,
            "arch": self.version.arch,
            "layers": self.version.layers,
            "kind": kind,
            "job": Job(environment="tiny", command=command, **(job or {})),
            "input": input,
        } | fields
        return Order(**fields)

    def put(self, order, data=None):
        if data is not None:
            orders.put_input(self.store, order.owner, order.token, (data,), order.input.digest)
        return orders.put_order(self.store, order)

    def words(self, order, digest):
        return ("task", order.owner, order.token, digest)

    def variables(self, *, index=0, attempt=0, number=12):
        others = {name: None for name in os.environ if name.startswith("SLURM") or name in INSIDE}
        return others | {
            "ENVKIT_JOB": str(number),
            "ENVKIT_TASK_INDEX": str(index),
            "ENVKIT_TASK_ATTEMPT": str(attempt),
            "ENVKIT_QUEUE": "local-test",
        }

    def run(self, order, digest=None, *, data=None, key=KEY, index=0, attempt=0, user=None, more=None):
        """Run a task to its end; place its order before, if no digest of one is given."""
        digest = digest or self.put(order, data)
        env = self.variables(index=index, attempt=attempt) | (more or {})
        return self.envkit(*self.words(order, digest), input=key.hex(), user=user, env=env)

    @contextlib.contextmanager
    def running(self, order, digest=None, *, data=None):
        """Start a task, and wait until its command has printed something that is stored."""
        digest = digest or self.put(order, data)
        read, write = os.pipe()
        os.write(write, KEY.hex().encode())
        os.close(write)
        process = self.envkit.start(*self.words(order, digest), stdin=read, env=self.variables())
        os.close(read)
        with process:
            try:
                wait_until(lambda: self.printed(order) or process.poll() is not None, "something is stored")
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def result(self, order, *, index=0, attempt=0, key=KEY):
        return orders.get_result(self.store, order.owner, order.token, key, index, attempt)

    def printed(self, order, stream="out", *, index=0, attempt=0):
        pieces = read_output(self.store, order.owner, order.token, KEY, index, attempt, stream)
        return b"".join(pieces).decode()

    def value(self, order):
        return orders.get_part(self.store, order.owner, order.token, KEY, 0, 0, orders.VALUE, limit=1 << 20)


@pytest.fixture
def desk(envkit):
    desk = Desk(envkit)
    os.makedirs(f"{envkit.root}/runs", mode=0o700, exist_ok=True)
    before = set(os.listdir(f"{envkit.root}/runs"))
    yield desk
    envkit("doctor", "--fix")
    assert set(os.listdir(f"{envkit.root}/runs")) - before == set()


def test_a_command_runs_and_leaves_what_it_printed_and_its_code(desk):
    order = desk.order("sh", "-c", "echo out; echo err >&2; exit 3")
    assert desk.run(order) == (3, b"", b"")
    result = desk.result(order)
    assert (result.state, result.code, result.error, result.attempt) == (State.FAILED, 3, "", 0)
    assert (result.out, result.err, result.segments) == (4, 4, 2)
    assert 0 < result.began <= result.ended and result.node == os.uname().nodename
    assert (desk.printed(order), desk.printed(order, "err")) == ("out\n", "err\n")


def test_a_command_that_ends_well_is_done_and_its_job_has_a_ticket(desk):
    order = desk.order("true", label="x")
    assert desk.run(order) == (0, b"", b"")
    assert desk.result(order).state is State.DONE
    ticket = orders.get_ticket(desk.store, "lab", "local-test", 12)
    assert (ticket.token, ticket.label, ticket.command) == (order.token, "x", "true")


def test_a_task_gets_its_own_parameters_whatever_is_in_them(desk):
    rows = (("1", "a"), ("$(id) {x}", "b c"))
    order = desk.order("echo", "{x}:{y}", "{{}}", count=2, array=True, names=("x", "y"), rows=rows)
    digest = desk.put(order)
    for index in range(2):
        assert desk.run(order, digest, index=index).code == 0
    assert desk.printed(order, index=0) == "1:a {}\n"
    assert desk.printed(order, index=1) == "$(id) {x}:b c {}\n"


def test_without_parameters_braces_are_braces(desk):
    order = desk.order("echo", "{x} {{")
    assert desk.run(order).code == 0
    assert desk.printed(order) == "{x} {{\n"


def test_a_command_knows_which_task_it_is(desk):
    order = desk.order(
        "sh", "-c", "echo $ENVKIT_JOB $ENVKIT_TASK_INDEX $ENVKIT_TASK_COUNT $SLURM_ARRAY_TASK_ID $A $ENVKIT_ENVIRONMENT",
        count=3, array=True, names=(TASK_NUMBER,), rows=(("5",), ("7",), ("9",)), job={"variables": (("A", "b"),)},
    )  # fmt: skip
    assert desk.run(order, index=1, more={"SLURM_JOB_ID": "13", "SLURM_EVIL": "a\nb"}).code == 0
    assert desk.printed(order, index=1) == "12 7 3 7 b base/tiny@1\n"


def test_a_script_runs_as_it_is_with_its_arguments(desk):
    text = b'#!/bin/sh\n#SBATCH --ntasks=3\necho "$0 $# $2"\necho more >> $0\n'
    order = desk.order("as-it-was-called.sh", "a", "b c", kind=Kind.SCRIPT, input=text)
    assert desk.run(order, data=text).code == 1
    assert desk.printed(order) == "/run/envkit/script 2 b c\n"
    assert "can't create /run/envkit/script" in desk.printed(order, "err")


def test_a_script_that_names_no_reader_is_for_bash(desk):
    order = desk.order("x.sh", kind=Kind.SCRIPT, input=b"echo x\n")
    assert desk.run(order, data=b"echo x\n").code == 126  # which this environment does not have
    assert "its interpreter /bin/bash is not in base/tiny@1" in desk.result(order).error


def call(desk, program, *parts, count=1, **fields):
    """Return an order of a call whose program is a shell script, and its input."""
    data = b"".join(parts)
    edges = [sum(map(len, parts[: number + 1])) for number in range(len(parts))]
    digests = tuple(hashlib.sha256(part).hexdigest() for part in parts)
    given = Input(digest=hashlib.sha256(data).hexdigest(), size=len(data), offsets=tuple(edges[:-1]), digests=digests)
    return desk.order("sh", "-c", program, kind=Kind.CALL, input=given, count=count, **fields), data


@pytest.mark.parametrize("user", [None, ALICE], ids=["root", "alice"])
def test_a_call_gets_its_part_of_the_input_and_leaves_a_value(desk, user):
    order, data = call(
        desk, "cd /run/envkit && cat call/function call/arguments > value.part && mv value.part value && ! touch call/x",
        b"the function,", b"arguments of 0", b"arguments of 1", count=2, array=True,
    )  # fmt: skip
    digest = desk.put(order, data)
    assert desk.run(order, digest, user=user).code == 0
    assert desk.result(order).value
    assert desk.value(order) == b"the function,arguments of 0"


@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("ln -s /etc/passwd value", "cannot be read"),
        ("mkfifo value", "is no file"),
        ("mkdir value", "is no file"),
        ("true", ""),
        ("rm -rf /run/envkit/value; exit 0", ""),
    ],
)
def test_whatever_a_call_leaves_there_nothing_else_of_the_host_is_taken(desk, program, error):
    order, data = call(desk, f"cd /run/envkit; {program}", b"f", b"a")
    assert desk.run(order, data=data).code == (125 if error else 0)
    result = desk.result(order)
    assert not result.value and error in result.error


def test_an_input_that_is_another_one_runs_nothing(desk):
    order, _ = call(desk, "echo ran", b"function", b"arguments")
    assert desk.run(order, data=b"function" + b"argumentS").code == 125
    assert "is not the input that was submitted" in desk.result(order).error
    assert desk.printed(order) == ""


@pytest.mark.parametrize(("command", "code"), [("nonsense", 127), ("/etc/passwd", 126)])
def test_a_command_that_cannot_run_is_told_as_by_run(desk, command, code):
    order = desk.order(command)
    assert desk.run(order).code == code
    result = desk.result(order)
    assert (result.state, result.code) == (State.FAILED, code)
    assert command in result.error
    assert result.error in desk.printed(order, "err")


def test_a_missing_layer_is_a_failure_and_nothing_runs_on_the_host(desk, place):
    missing = LayerRef(tree="0" * 64, entries=1, size=1, stored=1)
    mark = place / "mark"
    order = desk.order("touch", str(mark), layers=(*desk.version.layers, missing), job={"volumes": ()})
    assert desk.run(order).code == 125
    assert desk.result(order).state is State.FAILED
    assert "0000" in desk.result(order).error
    assert not mark.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_task_that_is_asked_to_end_says_so_in_its_result(desk, number):
    script = "trap 'echo bye; exit 9' TERM INT; echo ready; while :; do sleep 0.1; done"
    order = desk.order("sh", "-c", script)
    with desk.running(order) as process:
        process.send_signal(number)
        assert process.wait(30) == 9
    assert (desk.result(order).state, desk.result(order).code) == (State.KILLED, 9)
    assert desk.printed(order) == "ready\nbye\n"


def test_a_task_that_is_asked_to_end_after_its_time_has_timed_out(desk):
    order = desk.order("sh", "-c", "echo ready; sleep 1000", resources=Resources(time=1))
    with desk.running(order) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    assert desk.result(order).state is State.TIMEOUT


def test_a_task_whose_own_limit_is_over_has_timed_out(desk):
    order = desk.order("sleep", "1000", job={"timeout": 0.5})
    assert desk.run(order).code == 124
    assert desk.result(order).state is State.TIMEOUT


def test_a_killed_task_takes_its_container_along(desk):
    order = desk.order("sh", "-c", "echo ready; exec sleep 86399")
    with desk.running(order) as process:
        process.kill()
        process.wait(30)
    wait_until(lambda: not sleepers(), "the command ends")
    assert desk.result(order) is None


def sleepers():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if file.read() == b"sleep\x0086399\x00":
                found.append(pid)
    return found


def test_output_comes_while_the_task_runs_and_in_segments(desk):
    order = desk.order("sh", "-c", "echo first; sleep 3; head -c 2500000 /dev/zero | tr '\\0' x; sleep 1000")
    with desk.running(order) as process:
        assert desk.printed(order) == "first\n"
        wait_until(lambda: len(desk.printed(order)) == 2_500_006, "all of it is stored")
        process.terminate()
        process.wait(30)
    assert desk.result(order).segments > 2
    assert desk.result(order).out == 2_500_006


def test_a_store_that_is_away_delays_results_and_does_not_fail_the_command(desk):
    order = desk.order("sh", "-c", "echo one; sleep 4; echo two; exit 5")
    digest = desk.put(order)
    place = f"{desk.envkit.root}/store/jobs/lab/{order.token}"
    with desk.running(order, digest) as process:
        os.rename(place, f"{place}.away")  # as a file system that is not mounted: nothing can be written there
        with open(place, "x", encoding="ascii"):
            pass
        time.sleep(6)
        assert process.poll() is None
        os.unlink(place)
        os.rename(f"{place}.away", place)
        assert process.wait(120) == 5
    assert desk.printed(order) == "one\ntwo\n"
    assert desk.result(order).code == 5


def test_a_task_that_has_a_result_does_not_run_again(desk, place):
    order = desk.order("sh", "-c", "echo x >> /place/runs; exit 4", job={"volumes": (volume(place),)})
    digest = desk.put(order)
    for _ in range(2):
        assert desk.run(order, digest).code == 4
    assert (place / "runs").read_text() == "x\n"
    assert desk.run(order, digest, attempt=1).code == 4
    assert (place / "runs").read_text() == "x\nx\n"
    assert desk.result(order, attempt=1).attempt == 1


def volume(place):
    place.chmod(0o777)
    return Volume(source=str(place), target="/place")


def test_an_attempt_that_died_without_a_result_is_followed_by_the_next_number(desk):
    order = desk.order("sh", "-c", "echo $$; cat /proc/sys/kernel/random/uuid")
    digest = desk.put(order)
    orders.put_part(desk.store, order, KEY, 0, 0, "out.000000", b"of the first\n")
    assert desk.run(order, digest).code == 0
    assert desk.printed(order) == "of the first\n"
    assert desk.result(order) is None
    assert desk.result(order, attempt=1).state is State.DONE
    assert desk.printed(order, attempt=1)


def test_another_order_than_the_one_submitted_is_refused(desk):
    order = desk.order("echo", "ran")
    digest = desk.put(order)
    wrong = ("0" if digest[0] != "0" else "1") + digest[1:]
    desk.run(order, wrong).fails(125, "is not the order that was submitted")
    assert desk.result(order).state is State.FAILED
    assert desk.printed(order) == ""


def test_an_order_that_is_gone_is_told_to_who_waits(desk):
    order = desk.order("true")
    desk.run(order, "0" * 64).fails(125, "order.json")
    assert "order.json" in desk.result(order).error


def test_who_has_another_key_can_neither_forge_nor_block_unseen(desk):
    order = desk.order("true")
    digest = desk.put(order)
    orders.put_part(desk.store, order, OTHER_KEY, 0, 0, orders.RESULT, b"{}")
    desk.run(order, digest).fails(125, "was not written by the job that it belongs to")


@pytest.mark.parametrize("key", [b"", b"ab" * 31, b"ab" * 33, b"zz" * 32, b"\xff" * 64, b"ab" * 3000])
def test_a_key_is_64_hexadecimal_digits(desk, key):
    order = desk.order("true")
    words = desk.words(order, desk.put(order))
    desk.envkit(*words, input=key, env=desk.variables()).fails(125, "there is no key on standard input")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("../x", "0" * 32, "0" * 64), "owner"),
        (("lab", "0" * 31, "0" * 64), "this is no order"),
        (("lab", "0" * 32, "0" * 63), "this is no order"),
        (("lab", "../../x", "0" * 64), "this is no order"),
    ],
)
def test_what_names_no_order_is_refused(desk, words, text):
    desk.envkit("task", *words, input=KEY.hex(), env=desk.variables()).fails(125, text)


@pytest.mark.parametrize(
    "change", [{"ENVKIT_QUEUE": "../../x"}, {"ENVKIT_QUEUE": "a b"}, {"ENVKIT_JOB": "9" * 30}], ids=str
)
def test_a_queue_that_is_none_is_refused(desk, change):
    order = desk.order("true")
    desk.run(order, more=change).fails(125, "is no job of a queue")


def test_outside_of_a_job_there_are_no_tasks(desk):
    bare = {**desk.variables(), "ENVKIT_JOB": None}
    desk.envkit("task", "lab", "0" * 32, "0" * 64, input=KEY.hex(), env=bare).fails(125, "this is no task of a job")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"layers": [{"tree": "../../x", "entries": 1, "size": 1, "stored": 1}]},
        {"kind": "shell"},
        {"count": 10**9},
        {"job": None},
        {"owner": "eve"},
        {"layers": []},
    ],
)
def test_an_order_that_is_none_is_refused_even_with_the_right_digest(desk, change):
    order = desk.order("true")
    good = desk.put(order)
    name = layout.order_key(order.owner, order.token)
    document = json.loads(desk.store.get(name, limit=1 << 20))
    bad = json.dumps(document | change).encode()
    desk.store.delete(name)
    desk.store.put_if_absent(name, bad)
    assert hashlib.sha256(bad).hexdigest() != good
    assert desk.run(order, hashlib.sha256(bad).hexdigest()).fails(125, "order")


def test_a_task_that_the_order_does_not_have_is_refused(desk):
    order = desk.order("true")
    assert desk.run(order, index=1).code == 125
    assert "no task 1" in desk.result(order, index=1).error


def test_several_processes_need_slurm(desk):
    order = desk.order("true", resources=Resources(tasks=2))
    assert desk.run(order).code == 125
    assert "need Slurm" in desk.result(order).error


def test_numbers_beyond_all_bounds_are_refused(desk):
    order = desk.order("true")
    digest = desk.put(order)
    desk.run(order, digest, attempt=10_000).fails(125, "cannot be started")
    desk.run(order, digest, index=MAX_NUMBER).fails(125, "cannot be started")


def test_a_volume_is_opened_with_the_rights_of_who_submitted(desk, place):
    closed = place / "closed"
    (closed / "inside").mkdir(parents=True)
    (closed / "inside" / "file").write_text("secret\n")
    closed.chmod(0o700)
    bind = Volume(source=str(closed / "inside"), target="/place")
    order = desk.order("cat", "/place/file", job={"volumes": (bind,)})
    digest = desk.put(order)
    assert desk.run(order, digest, user=ALICE).code == 125
    assert "with your rights" in desk.result(order).error
    assert desk.run(order, digest, attempt=1).code == 0  # root may


def test_the_epilog_ends_what_a_job_of_slurm_left_and_nothing_else(desk):
    """As Slurm calls it on the node when a job is over."""
    mine = {**desk.variables(), "SLURM_JOB_ID": "4711"}
    other = {**desk.variables(), "SLURM_JOB_ID": "4712"}
    words = ("run", "-e", "base/tiny", "--", "sh", "-c", "echo ready; exec sleep 1000")
    epilog = os.path.join(CHECKOUT, "scripts/slurm/epilog")
    with desk.envkit.start(*words, env=mine) as left, desk.envkit.start(*words, env=other) as running:
        try:
            for process in (left, running):
                read_until(process.stdout, b"ready")
            ours = desk.envkit.environment(more={**mine, "ENVKIT": str(program(desk))})
            assert subprocess.run([epilog], env=ours, timeout=90, check=False).returncode == 0
            assert left.wait(30) == -signal.SIGKILL
            assert running.poll() is None
        finally:
            left.kill()
            running.terminate()
            running.wait(30)


def program(desk):
    """A file that is this envkit, as it is installed on nodes."""
    path = f"{desk.envkit.root}/envkit"
    with open(path, "w", encoding="utf-8") as file:
        file.write(f'#!/bin/sh\nexec {sys.executable} -m envkit "$@"\n')
    os.chmod(path, 0o755)
    return path


def test_the_epilog_never_fails():
    """A node whose epilog fails is taken out of service."""
    epilog = os.path.join(CHECKOUT, "scripts/slurm/epilog")
    for env in ({}, {"SLURM_JOB_ID": "x", "ENVKIT": "/bin/false"}, {"SLURM_JOB_ID": "1", "ENVKIT": "/nonexistent"}):
        done = subprocess.run([epilog], env={"PATH": "/usr/bin:/bin", **env}, timeout=90, check=False)
        assert done.returncode == 0
