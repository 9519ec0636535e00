"""The proxy itself: what it passes on is what came, and each fault is what it says."""

import http.client
import http.server
import socket
import threading

import pytest
from fault_proxy import ERRORS, FAULTS, FaultProxy, Rule

LISTING = (
    "<?xml version='1.0'?><ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
    + "".join(f"<Contents><Key>k{number}</Key></Contents>" for number in range(4))
    + "</ListBucketResult>"
)


class _Server(http.server.BaseHTTPRequestHandler):
    """Keeps what is put, and says what it was asked."""

    protocol_version = "HTTP/1.1"
    kept = {}
    seen = []

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "ETag": '"e"', **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        self.seen.append((self.command, self.path, self.headers["Host"]))
        self.kept[self.path] = self._body()
        self._send(200)

    def do_GET(self):
        self.seen.append((self.command, self.path, self.headers["Host"]))
        if "list-type" in self.path:
            self._send(200, LISTING.replace("k0", f"n{len(self.seen)}").encode())
        elif self.path in self.kept:
            self._send(200, self.kept[self.path])
        else:
            self._send(404, b"no")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_):
        pass


@pytest.fixture
def proxy():
    _Server.kept, _Server.seen = {}, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    with FaultProxy("127.0.0.1", server.server_address[1], seed=3) as proxy:
        yield proxy
    server.shutdown()
    thread.join()
    server.server_close()


def _ask(proxy, method, path, body=None, *, timeout=20.0, connection=None):
    ours = connection or http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=timeout)
    try:
        ours.request(method, path, body=body)
        answer = ours.getresponse()
        return answer.status, answer.read(), dict(answer.headers)
    finally:
        if connection is None:
            ours.close()


def test_what_no_rule_concerns_passes_unchanged(proxy):
    data = bytes(range(256)) * 5000
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
    proxy.rules = [Rule("500", key="/other")]
    for _ in range(3):
        assert _ask(proxy, "PUT", "/b/one%20two?x=1", data, connection=connection)[0] == 200
        assert _ask(proxy, "GET", "/b/one%20two?x=1", connection=connection)[:2] == (200, data)
    connection.close()
    assert proxy.met == 0
    assert {host for _, _, host in _Server.seen} == {f"127.0.0.1:{proxy.port}"}
    assert [path for _, path, _ in _Server.seen][:2] == ["/b/one%20two?x=1"] * 2


def test_a_rule_chooses_by_method_path_number_and_times(proxy):
    proxy.rules = [Rule("503", method="PUT", key="^/b/x", nth=2, times=2)]
    codes = [_ask(proxy, method, path, b"1")[0] for path in ("/b/x", "/b/y") for method in ("GET", *["PUT"] * 4)]
    assert codes == [404, 200, 503, 503, 200, 404, 200, 200, 200, 200]
    assert proxy.met == 2


def test_a_rule_with_a_probability_is_the_same_for_the_same_seed(proxy):
    def codes(seed):
        with FaultProxy(*proxy._upstream, seed=seed) as other:
            other.rules = [Rule("500", times=None, probability=0.5)]
            return [_ask(other, "GET", "/b/x")[0] for _ in range(20)]

    assert codes(1) == codes(1) != codes(2)
    assert set(codes(1)) == {500, 404}


@pytest.mark.parametrize("fault", ERRORS)
def test_an_error_is_told_as_s3_does_and_the_server_hears_nothing(proxy, fault):
    proxy.rules = [Rule(fault)]
    status, body, _ = _ask(proxy, "PUT", "/b/x", b"data")
    assert (status, f"<Code>{ERRORS[fault][1]}</Code>".encode() in body) == (ERRORS[fault][0], True)
    assert _Server.seen == []


def test_a_request_without_an_answer(proxy):
    proxy.rules = [Rule("timeout"), Rule("reset")]
    with pytest.raises(TimeoutError):
        _ask(proxy, "PUT", "/b/x", b"data", timeout=0.3)
    with pytest.raises(ConnectionError):
        _ask(proxy, "PUT", "/b/x", b"data")
    assert _Server.kept == {}


def test_an_answer_that_is_lost_after_the_server_did_it(proxy):
    proxy.rules = [Rule("applied"), Rule("applied-500")]
    with pytest.raises(ConnectionError):
        _ask(proxy, "PUT", "/b/x", b"data")
    assert _ask(proxy, "PUT", "/b/y", b"data")[0] == 500
    assert _Server.kept == {"/b/x": b"data", "/b/y": b"data"}


def test_bodies_that_are_broken(proxy):
    data = bytes(range(200))
    _ask(proxy, "PUT", "/b/packs/x", data)
    _ask(proxy, "PUT", "/b/packs/y", data[::-1])

    def got(fault):
        proxy.rules = [Rule(fault, amount=50)]
        return _ask(proxy, "GET", "/b/packs/x")[1]

    with pytest.raises(http.client.IncompleteRead):
        got("cut")
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        got("reset-after")
    assert got("short") == data[:50]
    assert got("long") == data + b"garbage"
    flipped = got("flip")
    assert sum((a ^ b).bit_count() for a, b in zip(flipped, data, strict=True)) == 1
    assert b"<Error><Code>InternalError" in got("error-body")
    _ask(proxy, "GET", "/b/packs/y")
    assert got("other") == data[::-1]
    for fault in ("etag", "date"):
        assert got(fault) == data


def test_an_answer_that_trickles(proxy):
    _ask(proxy, "PUT", "/b/x", bytes(100))
    proxy.rules = [Rule("slow")]
    connection = socket.create_connection(("127.0.0.1", proxy.port), 10)
    connection.sendall(b"GET /b/x HTTP/1.1\r\nHost: h\r\n\r\n")
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(4096)
    assert len(data.partition(b"\r\n\r\n")[2]) < 50
    connection.close()


def test_listings_that_are_wrong(proxy):
    def listed(fault, query="/b?list-type=2&prefix=a"):
        proxy.rules = [Rule(fault, listing=True)] if fault else []
        text = _ask(proxy, "GET", query)[1].decode()
        return text.count("<Key>"), "true</IsTruncated>" in text, "NextContinuationToken" in text, text

    first = listed("")
    assert first[:3] == (4, True, True)
    assert listed("empty")[:3] == (0, False, False)
    assert listed("half")[:3] == (2, False, False)
    proxy.rules = [Rule("hole", listing=True, hides="^k[12]$")]
    text = _ask(proxy, "GET", "/b?list-type=2&prefix=a")[1].decode()
    assert (text.count("<Key>"), "<Key>k3</Key>" in text, "<Key>k1</Key>" in text) == (2, True, False)
    assert listed("no-token")[:3] == (4, True, False)
    assert listed("twice")[:3] == (8, False, False)
    assert listed("stale")[3] == first[3] != listed("")[3]
    proxy.rules = [Rule("empty", listing=True)]
    assert _ask(proxy, "GET", "/b/x")[0] == 404
    assert proxy.met == 0


def test_a_fault_that_does_not_exist_is_refused(proxy):
    assert len(FAULTS) == len(set(FAULTS)) >= 22
    with pytest.raises(AssertionError):
        proxy.rules = [Rule("no-such-fault")]
