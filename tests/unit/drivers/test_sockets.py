import os
import socket

import pytest

from envkit.drivers.sockets import is_loopback, listening


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]
)
def test_an_open_port_is_found_with_its_address(family, address):
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert listening(os.getpid(), port) == []
        server.listen()
        assert listening(os.getpid(), port) == [address]
        with socket.create_connection(("::1" if family == socket.AF_INET6 else "127.0.0.1", port)) as client:
            assert listening(os.getpid(), client.getsockname()[1]) == []
    assert listening(os.getpid(), port) == []


def test_a_process_that_is_not_there_listens_nowhere():
    assert listening(2**22 + 1, 80) == []


def test_loopback():
    assert is_loopback("127.0.0.1") and is_loopback("::1") and is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("0.0.0.0") and not is_loopback("::") and not is_loopback("10.0.0.1")
