"""A small `envkit` for tests of the Python API: jobs are processes of this machine's Python, kept in $FAKE_ENVKIT.

It takes the same words and gives the same answers; what a task runs is the payload itself, as in an environment.
`submitted` in its directory has a line of words for each job; `broken` there makes `follow` fail once for each line.
The environment `held` never begins, `gone` does not exist, and after it has told of tasks in `talks`, `follow` dies.
"""

import json
import os
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from envkit.model.jobid import parse_ids
from envkit.model.payload import TAIL, index_from_bytes, index_size

PLACE = os.environ.get("FAKE_ENVKIT", "")
INLINE = 1 << 16


def fail(message, code, hint=None):
    event = {"event": "error", "message": message, "details": None, "hint": hint, "exit_code": code}
    sys.stderr.write(json.dumps(event) + "\n")
    sys.exit(code)


def submit(words):
    payload = sys.stdin.buffer.read()
    if "gone" in words:
        fail("there is no environment lab/gone", 3, "see `envkit list`")
    end = len(payload) - TAIL.size
    index = index_from_bytes(payload[end - index_size(payload[end:]) : end])
    parts, start = [], 0
    for length in index.parts:
        parts.append(payload[start : start + length])
        start += length
    with open(f"{PLACE}/submitted", "a") as file:
        file.write(json.dumps([*words, index.name, len(parts) - 1]) + "\n")
    with open(f"{PLACE}/submitted") as file:
        job = len(file.readlines())
    array = "--array" in words or len(parts) > 2
    if "talks" in words:
        os.mkdir(f"{PLACE}/{job}")
        open(f"{PLACE}/{job}/talks", "w").close()
    for number, part in enumerate(parts[1:]):
        call = f"{PLACE}/{job}/{number}/call"
        os.makedirs(call)
        for name, data in (("function", parts[0]), ("arguments", part)):
            with open(f"{call}/{name}", "wb") as file:
                file.write(data)
    for number in range(len(parts) - 1):
        place = f"{PLACE}/{job}/{number}"
        if "held" not in words:
            with open(f"{place}/out", "wb") as out, open(f"{place}/err", "wb") as err:
                argv = [sys.executable, f"{place}/call/function", index.name]
                child = subprocess.Popen(argv, stdout=out, stderr=err, stdin=subprocess.DEVNULL, cwd=place)
            with open(f"{place}/pid", "w") as file:
                file.write(str(child.pid))
    sys.stdout.write(json.dumps({"job": job, "count": len(parts) - 1, "array": array}))


def ended(place):
    """Tell how a task ended: state and exit code, or None."""
    if os.path.exists(f"{place}/killed"):
        return "killed", 137
    if not os.path.exists(f"{place}/pid"):
        return None
    with open(f"{place}/pid") as file:
        pid = file.read()
    try:
        with open(f"/proc/{pid}/stat") as file:
            alive = file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        alive = False
    if alive:
        return None
    if os.path.exists(f"{place}/value"):
        with open(f"{place}/value", "rb") as file:
            return ("done", 0) if json.loads(file.readline())["kind"] == "value" else ("failed", 1)
    return "failed", 3


def follow():
    try:
        with open(f"{PLACE}/broken") as file:
            left = file.readlines()
    except FileNotFoundError:
        left = []
    with open(f"{PLACE}/broken", "w") as file:
        file.writelines(left[1:])
    if left:
        fail("the queue does not answer", int(left[0]))
    os.set_blocking(0, False)
    out = sys.stdout.buffer
    told = {}
    tasks = {}
    while True:
        data = b""
        try:
            data = os.read(0, 65536)
            if not data:
                return
        except BlockingIOError:
            pass
        for job in [task.job for task in parse_ids(data.decode().split())]:
            tasks |= {
                (job, int(number)): f"{PLACE}/{job}/{number}"
                for number in os.listdir(f"{PLACE}/{job}")
                if number.isdigit()
            }
        for (job, index), place in list(tasks.items()):
            row = {"id": f"{job}_{index}", "job": job, "index": index, "error": None, "code": None}
            end = ended(place)
            state = end[0] if end else "running" if os.path.exists(f"{place}/pid") else "queued"
            if told.get((job, index)) == state:
                continue
            told[job, index] = state
            if end is None:
                out.write(json.dumps(row | {"state": state}).encode() + b"\n")
                continue
            del tasks[job, index]
            row |= {"state": state, "code": end[1], "value": os.path.exists(f"{place}/value"), "stderr": ""}
            data = b""
            if row["value"]:
                with open(f"{place}/value", "rb") as file:
                    data = file.read()
                if len(data) <= INLINE:
                    row["sent"] = len(data)
            elif os.path.exists(f"{place}/err"):
                with open(f"{place}/err") as file:
                    row["stderr"] = file.read()
            out.write(json.dumps(row).encode() + b"\n" + (data if "sent" in row else b""))
        out.flush()
        if any(os.path.exists(f"{PLACE}/{job}/talks") for job, _ in told):
            os._exit(9)
        time.sleep(0.02)


def place_of(task):
    job, _, index = task.partition("_")
    return f"{PLACE}/{job}/{index or 0}"


def kill(ids):
    with open(f"{PLACE}/kills", "a") as file:
        file.write(" ".join(ids) + "\n")
    for task in parse_ids(ids):
        place = f"{PLACE}/{task.job}/{task.index or 0}"
        open(f"{place}/killed", "w").close()
        if os.path.exists(f"{place}/pid"):
            with open(f"{place}/pid") as file:
                os.kill(int(file.read()), signal.SIGKILL)
    sys.stdout.write("[]")


def main(words):
    verb, rest = words[0], words[1:]
    if verb == "submit":
        submit(rest)
    elif verb == "follow":
        follow()
    elif verb == "result":
        with open(f"{place_of(rest[0])}/value", "rb") as file:
            sys.stdout.buffer.write(file.read())
    elif verb == "logs":
        with open(f"{place_of(rest[0])}/{rest[1].removeprefix('--std')}") as file:
            sys.stdout.write(file.read())
    elif verb == "kill":
        kill([word for word in rest if not word.startswith("-")])
    else:
        fail(f"no such command: {verb}", 2)


if __name__ == "__main__":
    main(sys.argv[1:])
