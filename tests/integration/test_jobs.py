"""Submitted jobs from the command line, in this machine's own queue and real containers."""

import contextlib
import glob
import json
import os
import threading

import pytest
from commandline import ALICE, NOBODY, PATIENCE, Terminal, User, read_until, wait_until

from envkit.drivers.files import remove_tree

FOREVER = "while true; do sleep 0.2; done"


@pytest.fixture(scope="module")
def queue(new_root, tiny_root):
    """A root with a queue of its own, two slots, and the environment `sci`."""
    envkit = new_root()
    envkit("base", "import", "tiny", tiny_root).ok()
    with envkit.session(
        "sci",
        script="echo one >/opt/which; printf '#!/bin/sh\\ncat /opt/which\\n' >/bin/which-one; chmod 755 /bin/which-one",
    ):
        envkit("save", "sci").ok()
    envkit._settings["ENVKIT_SLOTS"] = "2"
    yield envkit
    left = []
    for user in (None, ALICE, NOBODY):
        rows = queue_rows(envkit, user)
        left += rows
        if rows:
            envkit("kill", *rows, user=user)
            envkit("wait", *rows, user=user)
    assert left == [], "a test left jobs that are not over"


def command_lines():
    """What everybody can read of processes."""
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            yield file.read()


def queue_rows(envkit, user):
    """The jobs of a user that are not over."""
    rows = envkit.json("jobs", user=user)
    return [str(row["job"]) for row in rows if row["state"] in ("waiting", "queued", "running")]


def submit(queue, *words, **options):
    return queue("submit", "-e", "sci", *words, **options).ok()


def state(queue, job, **options):
    return {row["state"] for row in queue.json("jobs", job, **options)}


def running(queue, job, **options):
    wait_until(lambda: state(queue, job, **options) == {"running"}, f"{job} runs")
    return job


def test_a_job_goes_through_its_life(queue):
    job = submit(queue, "-l", "first/try", "--", "sh", "-c", "echo out; echo err >&2; cat /opt/which; exit 3")
    assert job.isdigit()
    waited = queue("wait", job)
    assert (waited.code, waited.out) == (1, b"")
    assert f"{job} failed 3" in waited.stderr
    done = queue("result", job)
    assert (done.code, done.out) == (3, b"out\none\n")
    assert done.stderr.startswith("err\n")
    assert queue("logs", job, "--stderr").ok() == "err"
    (row,) = queue.json("jobs", job)
    assert (row["state"], row["code"], row["environment"], row["label"]) == ("failed", 3, "lab/sci@1", "first/try")
    assert len(row["digest"]) == 64
    assert job in [line.split()[0] for line in queue("jobs", "--label", "first/*").ok().splitlines()[1:]]
    assert queue("jobs", "--label", "second*").ok().count("\n") == 0
    text = queue("info", job).ok()
    assert "sha256:" + row["digest"] in text
    assert "first/try" in text
    assert f"{job} is over" in queue("ssh", job).fails(4).stderr


def test_a_job_may_be_told_to_fetch_nothing_or_all(queue):
    queue("cache", "drop", "--all").ok()
    for how, state, code in (("--offline", "failed", 125), ("--eager", "done", 0), ("--offline", "done", 0)):
        job = submit(queue, how, "--", "which-one")
        queue("wait", job)
        (row,) = queue.json("jobs", job)
        assert (row["state"], row["code"]) == (state, code), row
        assert (state == "done") == (row["error"] is None)
        assert f"fetch:        {how.removeprefix('--')}" in queue("info", job).ok()
    queue("submit", "-e", "sci", "--eager", "--offline", "--", "true").fails(2, "contradict each other")


def test_what_a_submission_says_is_for_scripts_and_programs(queue):
    done = queue("submit", "-e", "sci", "--json", "--array", "0-2", "--", "true")
    told = json.loads(done.ok())
    assert (told["tasks"], told["array"], told["environment"]) == (3, True, "lab/sci@1")
    waited = queue("wait", told["id"], "--json")
    events = [json.loads(line) for line in waited.ok().splitlines()]
    last = {event["index"]: event["state"] for event in events}
    assert last == {0: "done", 1: "done", 2: "done"}


def test_a_version_is_settled_when_a_job_is_submitted(queue):
    gate = submit(queue, "-c", "2", "--", "sh", "-c", "sleep 4")
    job = submit(queue, "--depends-on", gate, "--", "which-one")
    assert state(queue, job) == {"waiting"}
    with queue.session("sci", origin="sci", script="echo two >/opt/which"):
        queue("save", "sci").ok()
    later = submit(queue, "--", "which-one")
    queue("wait", job, later).ok()
    assert queue("result", job).ok() == "one"
    assert queue("result", later).ok() == "two"
    again = queue("rerun", job).ok()
    queue("wait", again).ok()
    assert queue("result", again).ok() == "one"
    queue("wait", *[str(row["job"]) for row in queue.json("jobs")])


def test_map_gives_each_task_its_values(queue, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("a b\n$(id)\n\n{x}\n")
    job = queue(
        "map",
        "-e",
        "sci",
        "printf '%s|%s|%s\\n' {n} {file} {one}",
        "-d",
        "n=1,2,3",
        "-d",
        f"file=@{listed}",
        "-d",
        "one=x",
    ).ok()
    queue("wait", job).ok()
    rows = queue.json("result", job)
    assert [row["output"] for row in rows] == ["1|a b|x\n", "2|$(id)|x\n", "3|{x}|x\n"]
    assert rows[1]["parameters"] == {"n": "2", "file": "$(id)", "one": "x"}
    assert [row["id"] for row in rows] == [f"{job}_{index}" for index in range(3)]
    crossed = queue("map", "-e", "sci", "--product", "-d", "a=1,2", "-d", "b=3,4", "--", "echo", "{a}{b}").ok()
    queue("wait", crossed).ok()
    assert queue("result", crossed).ok().split() == ["13", "14", "23", "24"]


def test_only_failed_tasks_run_again_with_the_numbers_that_they_had(queue):
    script = 'echo "$SLURM_ARRAY_TASK_ID $ENVKIT_TASK_INDEX"; test "$ENVKIT_TASK_INDEX" -lt 7'
    job = submit(queue, "--array", "3-9:2", "--", "sh", "-c", script)
    assert queue("wait", job).code == 1
    assert [row["state"] for row in queue.json("jobs", job)] == ["done", "done", "failed", "failed"]
    again = queue("rerun", job, "--failed").ok()
    assert queue("wait", again).code == 1
    rows = json.loads(queue("result", again, "--json").stdout)
    assert [row["output"] for row in rows] == ["7 7\n", "9 9\n"]
    line = next(line for line in queue("jobs").ok().splitlines() if line.split()[0] == job)
    assert "done 2, failed 2" in line


def test_a_dependency_that_fails_ends_what_waits_for_it(queue):
    first = submit(queue, "--", "sh", "-c", "sleep 2; exit 1")
    second = submit(queue, "--depends-on", first, "--", "echo", "never")
    assert queue("wait", second, first).code == 1
    assert state(queue, second) == {"killed"}
    queue("submit", "-e", "sci", "--depends-on", first, "--", "true").fails(4, f"job {first} is failed", "rerun")
    good = submit(queue, "--", "true")
    queue("wait", good).ok()
    queue("wait", submit(queue, "--depends-on", good, "--", "true")).ok()


def test_kill_ends_what_runs_and_what_waits(queue):
    job = running(queue, submit(queue, "-c", "2", "--", "sh", "-c", f"echo began; {FOREVER}"))
    waiting = submit(queue, "--array", "0-9", "-c", "2", "--", "true")
    assert queue("wait", job, "--timeout", "1").code == 124
    queue("kill", f"{waiting}_3-5").ok()
    queue("kill", job).ok()
    assert queue("wait", job, waiting).code == 1
    assert state(queue, job) == {"killed"}
    states = [row["state"] for row in queue.json("jobs", waiting)]
    assert states == ["done"] * 3 + ["killed"] * 3 + ["done"] * 4
    assert b"began" in queue("logs", job).out
    assert f"over already: {job}" in queue("kill", job).stderr


def test_time_that_is_up_ends_a_job(queue):
    job = submit(queue, "--time", "2s", "--", "sh", "-c", FOREVER)
    assert queue("wait", job).code == 1
    assert state(queue, job) == {"timeout"}


def test_logs_follow_a_job_to_its_end(queue):
    job = submit(queue, "--", "sh", "-c", "echo first; sleep 4; echo last")
    with queue.start("logs", "-f", job) as process:
        read_until(process.stdout, b"first\n")
        assert state(queue, job) == {"running"}
        assert process.stdout.read() == b"last\n"
        assert process.wait(PATIENCE) == 0
    array = submit(queue, "--array", "0-1", "--", "sh", "-c", "echo task $ENVKIT_TASK_INDEX; printf end")
    lines = queue("logs", "-f", array).ok().splitlines()
    assert sorted(lines) == sorted(f"{array}_{index}: {text}" for index in (0, 1) for text in (f"task {index}", "end"))


def test_ssh_joins_the_container_of_a_task(queue, place):
    (place / "seen").write_text("bound\n")
    words = ["-v", f"{place}:/data:ro", "--env", "COLOUR=blue green", "-w", "/opt"]
    job = running(queue, submit(queue, *words, "--", "sh", "-c", FOREVER, user=ALICE), user=ALICE)
    joined = queue(
        "ssh",
        job,
        "--",
        "sh",
        "-c",
        'id -u; pwd; cat /data/seen; echo "$COLOUR $ENVKIT_JOB"; touch /data/x',
        user=ALICE,
    )
    assert joined.stdout.splitlines() == [str(ALICE.uid), "/opt", "bound", f"blue green {job}"]
    assert joined.code == 1
    assert queue("ssh", job, "--", "sh", "-c", "exit 9", user=ALICE).code == 9
    with queue.start("ssh", job, "--", "sh", "-c", "echo ready; sleep 3", user=ALICE) as process:
        read_until(process.stdout, b"ready")
        seen = b"".join(command_lines())
        assert b"lxc-attach" in seen and f"ssh\0{job}".encode() in seen
        assert b"blue green" not in seen, "everybody could read the job's variables"
    with Terminal(queue, "ssh", job, user=ALICE) as shell:
        shell.expect("# ")
        shell.type("echo $((6 * 7)) $COLOUR\n")
        shell.expect("42 blue green")
        shell.type("exit 5\n")
        assert shell.end() == 5
    queue("ssh", job, user=NOBODY).fails(3, "nobody has no job")
    queue("kill", job, user=NOBODY).fails(3, "nobody has no job")
    assert state(queue, job, user=ALICE) == {"running"}
    queue("kill", job, user=ALICE).ok()
    queue("wait", job, user=ALICE)


def test_nobody_enters_the_container_of_somebody_else(queue):
    """Also who knows the token, which stands in the arguments of a process."""
    job = running(queue, submit(queue, "--", "sh", "-c", FOREVER, user=ALICE), user=ALICE)
    (token,) = os.listdir(f"{queue.root}/store/jobs/alice")[-1:]
    queue("enter", "alice", token, "0", "--", "id", user=NOBODY).fails(5, "not yours")
    queue("kill", job, user=ALICE).ok()
    queue("wait", job, user=ALICE)


def test_wait_port_says_where_a_job_can_be_reached(queue):
    listen = "sleep 1; while true; do nc -l -p 7070 -e cat; done"
    job = submit(queue, "--net", "nat", "--", "sh", "-c", listen)
    address = queue("wait-port", job, "7070", "--timeout", str(PATIENCE)).ok()
    assert address.startswith("10.") and address.endswith(":7070")
    queue("wait-port", job, "7071", "--timeout", "1").fails(124, "7071")
    queue("kill", job).ok()
    queue("wait", job)
    queue("wait-port", job, "7070").fails(4, "is over")
    hidden = submit(queue, "--net", "none", "--", "sh", "-c", listen)
    found = queue("wait-port", hidden, "7070", "--timeout", str(PATIENCE))
    assert (found.code, found.out) == (0, b"")
    assert "no network" in found.stderr
    queue("kill", hidden).ok()
    queue("wait", hidden)


def test_shell_on_is_a_job_with_a_terminal(queue):
    with Terminal(queue, "shell-on", "-e", "sci", "-l", "desk", "--env", "COLOUR=red", user=ALICE) as shell:
        shell.expect("waits for its turn")
        shell.expect("# ")
        shell.type("echo $((40 + 2)) $COLOUR\n")
        shell.expect("42 red")
        (row,) = queue.json("jobs", "--label", "desk", user=ALICE)
        assert row["state"] == "running"
        shell.type("exit 6\n")
        assert shell.end() == 6
    queue("wait", str(row["job"]), user=ALICE).ok()


def test_a_script_runs_unchanged_with_what_its_lines_ask_for(queue, place):
    script = place / "solve.sh"
    script.write_text(
        '#!/bin/sh\n#SBATCH -J "my job" --array=4,6\n'
        "#SBATCH --time=0:05:00\n#SBATCH --export=ALL,COLOUR=green\n"
        '\n# a comment\necho "$SLURM_ARRAY_TASK_ID $COLOUR $1"\n#SBATCH --wrap=not-read-here\n'
    )
    job = queue("sbatch", "-e", "sci", str(script), "an argument").ok()
    queue("wait", job).ok()
    assert queue("result", job).ok().splitlines() == ["4 green an argument", "6 green an argument"]
    (row, _) = queue.json("jobs", job)
    assert row["label"] == "my-job"
    script.write_text("#!/bin/sh\n#SBATCH --wrap=no\n")
    queue("sbatch", "-e", "sci", str(script)).fails(2, "--wrap")
    secret = place / "secret.sh"
    secret.write_text("#!/bin/sh\n")
    secret.chmod(0o600)
    refused = queue("sbatch", "-e", "sci", str(secret), user=ALICE)
    assert refused.code != 0 and "Permission denied" in refused.stderr
    assert queue("map", "-e", "sci", "echo {x}", "-d", f"x=@{secret}", user=ALICE).code != 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["submit", "-e", "nothing", "--", "true"], "no environment"),
        (["submit", "-e", "sci@77", "--", "true"], "77"),
        (["submit", "-e", "sci", "--depends-on", "4711", "--", "true"], "4711"),
        (["submit", "-e", "sci"], "no command"),
        (["submit", "-e", "sci", "--", "--qos=long", "true"], "no command"),
        (["submit", "-e", "sci", "--time", "soon", "--", "true"], "soon"),
        (["submit", "-e", "sci", "-l", "a b", "--", "true"], "label"),
        (["submit", "-e", "sci", "-N", "3", "--", "true"], "3 nodes"),
        (["submit", "-e", "sci", "--memory", "900T", "--", "true"], "memory"),
        (["submit", "-e", "sci", "--array", "5-1", "--", "true"], "5-1"),
        (["map", "-e", "sci", "echo {a}", "-d", "b=1"], "'a'"),
        (["map", "-e", "sci", "echo {a}", "-d", "a=1,2", "-d", "b=1,2,3"], "'b'"),
        (["map", "-e", "sci", "echo {a}{b}", "-d", "a=1,2", "-d", "b=1,2,3"], "2 values"),
        (["map", "-e", "sci", "echo {a}", "-d", "a="], "no values"),
        (["map", "-e", "sci", "echo {a}", "-d", "a=@/does/not/exist"], "/does/not/exist"),
        (["map", "-e", "sci", "echo '{a}", "-d", "a=1"], "split"),
    ],
)
def test_what_cannot_begin_is_refused_and_not_queued(queue, words, text):
    before = queue.json("jobs", "--all")
    stored = sum(len(files) for _, _, files in os.walk(f"{queue.root}/store/jobs"))
    done = queue(*words)
    assert done.code not in (0, 1)
    done.fails(done.code, text)
    assert queue.json("jobs", "--all") == before
    assert sum(len(files) for _, _, files in os.walk(f"{queue.root}/store/jobs")) == stored


def test_a_layer_that_is_not_in_the_store_is_noticed_before_the_queue(queue):
    with queue.session("gone", script="echo gone >/opt/gone"):
        queue("save", "gone").ok()
    tree = queue.json("info", "gone")["layers"][-1]["tree"]
    path = f"{queue.root}/store/trees/{tree[:2]}/{tree}"
    os.rename(path, f"{path}.away")
    try:
        queue("submit", "-e", "gone", "--", "true").fails(6, tree)
    finally:
        os.rename(f"{path}.away", path)
    queue("wait", queue("submit", "-e", "gone", "--", "true").ok()).ok()


def test_eight_users_at_once(queue):
    users = [User(60_000 + number, 60_000 + number, f"user{number}") for number in range(8)]
    outputs = {}

    def work(user):
        job = queue("submit", "-e", "sci", "--", "id", "-u", user=user, patience=300).ok()
        queue("wait", job, user=user, patience=300).ok()
        outputs[user] = (queue("result", job, user=user).ok(), len(queue.json("jobs", user=user)))

    threads = [threading.Thread(target=work, args=(user,)) for user in users]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outputs == {user: (str(user.uid), 1) for user in users}


def test_jobs_are_forgotten_when_asked(queue):
    job = submit(queue, "--", "true")
    queue("wait", job).ok()
    kept = running(queue, submit(queue, "--", "sh", "-c", FOREVER))
    queue("jobs", "--forget", kept).fails(4, "not over")
    queue("jobs", "--forget", job).ok()
    queue("result", job).fails(3)
    assert job not in [str(row["job"]) for row in queue.json("jobs", "--all")]
    queue("kill", kept).ok()
    queue("wait", kept)


def test_gc_keeps_what_a_waiting_job_needs(queue):
    """The version is deleted, and everything is old enough; the negative control is the same without the job."""
    from envkit.services.jobs.forgetting import needed_layers
    from envkit.store.open import open_store

    with queue.session("brief", script="echo brief >/opt/brief"):
        queue("save", "brief").ok()
    (layer,) = [row["tree"] for row in queue.json("info", "brief")["layers"]][-1:]
    store = open_store(f"{queue.root}/store")
    assert layer not in needed_layers(store)
    gate = running(queue, submit(queue, "--", "sh", "-c", FOREVER))
    job = queue("submit", "-e", "brief", "--depends-on", gate, "--", "true").ok()
    queue("delete", "brief", "--yes").ok()
    assert layer in needed_layers(store)
    queue("kill", job, gate).ok()
    queue("wait", job, gate)


def test_a_damaged_secret_is_told(new_root, tiny_root):
    envkit = new_root()
    envkit("base", "import", "tiny", tiny_root).ok()
    job = envkit("submit", "-e", "base/tiny", "--", "true").ok()
    envkit("wait", job).ok()
    with open(f"{envkit.root}/queue/secret", "r+b") as file:
        file.truncate(7)
    envkit("result", job).fails(6, "secret")
    remove_tree(f"{envkit.root}/queue")
