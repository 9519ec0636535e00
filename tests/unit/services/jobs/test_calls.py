"""Calls between the payload that a client made and the files that a task reads."""

import io
import os
import sys

import pytest
from stored_support import Lab, Link

from envkit.client.payload import write_payload
from envkit.errors import Damaged, InvalidInput, NotFound
from envkit.model.job import Job
from envkit.model.order import Kind, Order
from envkit.model.tree import Entry
from envkit.model.tree import Kind as EntryKind
from envkit.services.jobs.calls import prepare_call, write_call
from envkit.store import layout, orders

TOKEN = "0123456789abcdef" * 2
HERE = f"python3.{sys.version_info.minor}"
OTHER = f"python3.{sys.version_info.minor + 1}"
PROGRAM = (Entry(b"", EntryKind.FILE, 0o755), b"\x7fELF")


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.fixture
def version(lab):
    return lab.save("sci", {f"usr/bin/{HERE}": PROGRAM, "usr/bin/python3": Link(HERE)})


@pytest.fixture
def payload(tmp_path):
    """A function that writes a payload and returns its path and its bytes."""

    def write(*rows, **how):
        file = io.BytesIO()
        write_payload(file, divmod, [(None, row, {}) for row in rows], **{"name": "divmod()", **how})
        path = tmp_path / "payload"
        path.write_bytes(file.getvalue())
        return str(path), file.getvalue()

    return write


def stored(lab, version, call):
    """Store a call as a submission does, and return its order."""
    order = Order(
        token=TOKEN,
        owner="lab",
        uid=0,
        gid=0,
        env=version.env,
        version=version.number,
        arch="x86_64",
        layers=version.layers,
        kind=Kind.CALL,
        job=Job(environment=str(version), command=call.command),
        count=call.count,
        array=True,
        input=call.input,
    )
    orders.put_input(lab.store, "lab", TOKEN, call.pieces(), call.input.digest)
    return order


def test_what_a_task_reads_is_what_the_client_wrote(lab, version, payload, tmp_path):
    path, data = payload((7, 2), (9, 4), (100, 1))
    with prepare_call(lab.context, version, path) as call:
        order = stored(lab, version, call)
    assert (call.count, call.name) == (3, "divmod()")
    assert call.command == ("/usr/bin/python3", "/run/envkit/call/function", "divmod()")
    together = b""
    for index in range(3):
        directory = tmp_path / f"task-{index}"
        directory.mkdir()
        write_call(lab.context, order, index, str(directory))
        assert sorted(os.listdir(directory)) == ["arguments", "function"]
        function = (directory / "function").read_bytes()
        together = (together or function) + (directory / "arguments").read_bytes()
    assert data.startswith(together)
    assert len(together) == call.input.size


@pytest.mark.parametrize("index", [0, 1])
def test_what_was_changed_in_the_store_is_not_read(lab, version, payload, tmp_path, index):
    path, _ = payload((7, 2), (9, 4))
    with prepare_call(lab.context, version, path) as call:
        order = stored(lab, version, call)
    stored_path = f"{lab.store_path}/{layout.input_key('lab', TOKEN, call.input.digest)}"
    start, _, _ = call.input.part(index)
    os.chmod(stored_path, 0o644)
    with open(stored_path, "r+b") as file:
        file.seek(start)
        file.write(b"\x00")
    with pytest.raises(Damaged, match="is not the input that was submitted"):
        write_call(lab.context, order, 0, str(tmp_path))


def test_another_minor_version(lab, payload):
    version = lab.save("sci", {f"usr/bin/{OTHER}": PROGRAM, "usr/bin/python3": Link(OTHER)})
    client = f"3.{sys.version_info.minor}"
    with pytest.raises(InvalidInput, match=rf"lab/sci@1 has Python {OTHER[6:]} \(/usr/bin/python3\), this") as caught:
        prepare_call(lab.context, version, payload((1, 1))[0])
    wanted = f"use an environment with Python {client}, or run your script with Python {OTHER[6:]}"
    assert caught.value.resolution == wanted
    both = lab.save("both", {f"opt/conda/bin/{HERE}": PROGRAM}, below=version)
    with pytest.raises(InvalidInput) as caught:
        prepare_call(lab.context, both, payload((1, 1))[0])
    assert caught.value.resolution.startswith(f'ask for the other one, _python="/opt/conda/bin/{HERE}"')
    path, _ = payload((1, 1), interpreter=f"/opt/conda/bin/{HERE}")
    with prepare_call(lab.context, both, path) as call:
        assert call.command[0] == f"/opt/conda/bin/{HERE}"


def test_files_that_are_no_payloads(lab, version, payload, tmp_path):
    path, data = payload((1, 1))
    with pytest.raises(NotFound, match="there is no file"):
        prepare_call(lab.context, version, f"{tmp_path}/none")
    with pytest.raises(InvalidInput, match="is no file"):
        prepare_call(lab.context, version, str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidInput, match="is no file"):
        prepare_call(lab.context, version, f"{tmp_path}/fifo")
    for bad in (b"", b"root:x:0:0\n" * 100, data[:-1], data[100:], data[:50] + data[100:]):
        with open(path, "wb") as file:
            file.write(bad)
        with pytest.raises(InvalidInput) as caught:
            prepare_call(lab.context, version, path)
        assert "root" not in str(caught.value) + str(caught.value.details)


@pytest.mark.parametrize("kind", ["file", "pipe"])
def test_standard_input(lab, version, payload, monkeypatch, kind):
    path, data = payload((7, 2))
    saved = os.dup(0)
    try:
        if kind == "file":
            given = os.open(path, os.O_RDONLY)
        else:
            given, other = os.pipe()
            os.write(other, data)
            os.close(other)
        os.dup2(given, 0)
        os.close(given)
        with prepare_call(lab.context, version, "-") as call:
            assert data.startswith(b"".join(call.pieces()))
    finally:
        os.dup2(saved, 0)
        os.close(saved)


def test_a_payload_that_changes_meanwhile(lab, version, payload):
    path, _ = payload((7, 2))
    with prepare_call(lab.context, version, path) as call:
        with open(path, "r+b") as file:
            file.write(b"x")
        with pytest.raises(InvalidInput, match="was changed while"):
            list(call.pieces())
        os.truncate(path, 10)
        with pytest.raises(InvalidInput, match="cut short"):
            list(call.pieces())
