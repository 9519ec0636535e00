"""How the image server is spoken to: what is no message ends the conversation, and no descriptor is left open."""

import array
import os
import socket

import pytest

from envkit.ondemand.messages import MAX_MESSAGE, ServerFailed, address, receive, send


@pytest.fixture
def ends():
    """Both ends of a connection."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in pair:
        end.settimeout(10)
    yield pair
    for end in pair:
        end.close()


@pytest.fixture
def pipe():
    """A pipe's reading end, and the other one, which somebody is to close."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)


def send_raw(end, data, descriptor=None):
    """Send bytes as they are; a descriptor that goes with them is closed here."""
    ancillary = []
    if descriptor is not None:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])))
    end.sendmsg([data], ancillary)
    if descriptor is not None:
        os.close(descriptor)


def is_closed(reading):
    """Tell whether nobody has the other end of a pipe any more."""
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


def test_a_message_arrives_as_it_was_sent(ends):
    message = {"op": "open", "layers": ["a" * 64] * 100, "text": "ä\n"}
    send(ends[0], message)
    assert receive(ends[1]) == (message, None)


def test_a_descriptor_goes_with_a_message(ends, pipe):
    reading, writing = pipe
    send(ends[0], {}, writing)
    os.close(writing)
    message, descriptor = receive(ends[1])
    assert message == {}
    assert not os.get_inheritable(descriptor)
    os.write(descriptor, b"x")
    assert os.read(reading, 10) == b"x"
    os.close(descriptor)
    assert is_closed(reading)


def test_the_end_is_no_message(ends):
    ends[0].close()
    assert receive(ends[1]) is None


def test_the_largest_message_goes_through(ends):
    message = {"text": "x" * (MAX_MESSAGE - 11)}
    send(ends[0], message)
    assert receive(ends[1]) == (message, None)


def test_a_message_that_is_too_large_is_not_sent(ends):
    with pytest.raises(ServerFailed, match=f"has {MAX_MESSAGE + 1} bytes"):
        send(ends[0], {"text": "x" * (MAX_MESSAGE - 10)})


@pytest.mark.parametrize(
    "data",
    [b"x", b"[]", b'"text"', b"null", b"{", b"\xff", b'{"a":1}trailing', b"[" * 100_000, b"7" * 5000],
    ids=["letter", "list", "text", "null", "open", "no-utf8", "trailing", "deep", "number"],
)
def test_what_is_no_message_is_refused_and_its_descriptor_closed(ends, pipe, data):
    reading, writing = pipe
    send_raw(ends[0], data, writing)
    with pytest.raises(ServerFailed, match="malformed"):
        receive(ends[1])
    assert is_closed(reading)


def test_a_message_that_was_cut_is_refused(ends, pipe):
    reading, writing = pipe
    send_raw(ends[0], b"{}" + b" " * MAX_MESSAGE, writing)
    with pytest.raises(ServerFailed, match="malformed"):
        receive(ends[1])
    assert is_closed(reading)


def test_an_empty_packet_leaves_no_descriptor(ends, pipe):
    reading, writing = pipe
    send_raw(ends[0], b"", writing)
    assert receive(ends[1]) is None
    assert is_closed(reading)


def test_more_descriptors_than_one_are_not_left_open(ends, pipe):
    reading, writing = pipe
    copy = os.dup(writing)
    ends[0].sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [writing, copy, writing]))])
    os.close(writing)
    os.close(copy)
    _, descriptor = receive(ends[1])
    os.close(descriptor)
    assert is_closed(reading)


def test_a_socket_may_have_a_long_path(tmp_path):
    directory = tmp_path / ("d" * 200)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        with address(str(directory / "socket")) as path:
            listener.bind(path)
        listener.listen()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            with address(str(directory / "socket")) as path:
                client.connect(path)
            send(client, {"op": "x"})
            connection, _ = listener.accept()
            with connection:
                assert receive(connection) == ({"op": "x"}, None)


def test_a_directory_that_is_not_there_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError), address(str(tmp_path / "none" / "socket")):
        pass
