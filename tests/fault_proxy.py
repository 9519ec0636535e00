"""A proxy between a client of S3 and a real server that does what networks and servers do on bad days, by rules.

Host passes through unchanged: the client's signature covers it. What a rule does not concern is passed on as it is.

    with FaultProxy("127.0.0.1", 8080, seed=1) as proxy:
        proxy.rules = [Rule("applied", method="PUT", key=r"/packs/", nth=2)]
        ... a client of proxy.endpoint ...
        assert proxy.met
"""

import asyncio
import contextlib
import random
import re
import socket
import struct
import threading
from typing import NamedTuple
from urllib.parse import unquote
from xml.sax.saxutils import escape

_HEAD_LIMIT = 1 << 16
_BODY_LIMIT = 64 << 20

ERRORS = {
    "500": (500, "InternalError"),
    "503": (503, "SlowDown"),
    "429": (429, "TooManyRequests"),
    "403": (403, "AccessDenied"),
    "expired": (403, "ExpiredToken"),
    "404": (404, "NoSuchKey"),
    "409": (409, "OperationAborted"),
    "412": (412, "PreconditionFailed"),
}
"""Faults that answer without asking the server."""

SILENT = ("timeout", "reset")
"""Faults without an answer: none ever, or a connection that breaks before the server hears of it."""

LOST = ("applied", "applied-500")
"""Faults after the server has done what it was asked for: the answer is lost, or is an error."""

BROKEN = ("cut", "short", "long", "flip", "other", "error-body", "slow", "reset-after", "etag", "date")
"""Faults of answers.

"cut" ends the body before its Content-Length, "short" makes both smaller, "long" adds to both, "flip" turns one bit,
"other" is another answer of the same kind of request, "error-body" an <Error> with status 200, "slow" trickles,
"reset-after" breaks the connection in the middle; "etag" and "date" are wrong in the headers.
"""

LISTINGS = ("empty", "half", "no-token", "twice", "stale")
"""Faults of listings: no entries, half of them and no more to come, more to come but not from where, each entry twice,
and the first listing that this question ever got."""

HOLE = "hole"
"""Another fault of listings, for a rule that says what it `hides`: the entries with these keys are left out."""

FAULTS = (*ERRORS, *SILENT, *LOST, *BROKEN, *LISTINGS)


class Rule(NamedTuple):
    """What happens to which requests: to `times` of those that match, from the `nth` on, each with a probability.

    `key` is a regular expression for the path and the query; `listing` chooses requests by whether they list.
    `amount` is the number of bytes that "cut", "short", "reset-after" leave, or None for a random one; `hides` is a
    regular expression for the keys that "hole" leaves out.
    """

    fault: str
    method: str = ""
    key: str = ""
    nth: int = 1
    times: int | None = 1
    probability: float = 1.0
    listing: bool | None = None
    amount: int | None = None
    hides: str = ""

    def concerns(self, request):
        """Tell whether a request is one of those."""
        return (
            (not self.method or self.method == request.method)
            and re.search(self.key, unquote(request.target)) is not None
            and (self.listing is None or self.listing == request.lists)
        )


class Request(NamedTuple):
    """A request as it came."""

    method: str
    target: str
    head: bytes
    body: bytes

    @property
    def path(self):
        return unquote(self.target.partition("?")[0])

    @property
    def lists(self):
        return self.method == "GET" and ("list-type=" in self.target or "prefix=" in self.target)


class Answer(NamedTuple):
    """An answer as it goes back; `headers` are pairs."""

    status: bytes
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def with_body(self, body, *, length=None):
        """Return it with another body; `length` is the Content-Length that is claimed."""
        headers = self.without("content-length", "transfer-encoding").headers
        return self._replace(
            headers=(*headers, ("Content-Length", str(len(body) if length is None else length))), body=body
        )

    def with_header(self, name, value):
        """Return it with another value of a header."""
        return self._replace(headers=(*self.without(name.lower()).headers, (name, value)))

    def without(self, *names):
        """Return it without some headers."""
        return self._replace(headers=tuple(pair for pair in self.headers if pair[0].lower() not in names))

    def head(self):
        """Return what comes before the body."""
        lines = [self.status, *(f"{name}: {value}".encode("latin-1") for name, value in self.headers)]
        return b"\r\n".join(lines) + b"\r\n\r\n"


class FaultProxy:
    """The proxy; a context manager. `rules` may be set at any time and begin to count then.

    :ivar requests: what came: (method, path, fault or "").
    """

    def __init__(self, host, port, *, seed=0):
        self._upstream = (host, port)
        self._random = random.Random(seed)
        self._rules = []
        self._counts = []
        self._first = {}
        self._bodies = {}
        self.requests = []

    @property
    def rules(self):
        return self._rules

    @rules.setter
    def rules(self, rules):
        unknown = [rule.fault for rule in rules if rule.fault not in (*FAULTS, HOLE)]
        assert not unknown, unknown
        self._rules, self._counts = list(rules), [0] * len(rules)
        self.requests.clear()

    @property
    def met(self):
        """How many requests a rule was applied to since the rules were set."""
        return sum(bool(fault) for _, _, fault in self.requests)

    @property
    def hides(self):
        """Whether listings are not what is there."""
        return any(rule.fault in (*LISTINGS, HOLE) for rule in self._rules)

    def __enter__(self):
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,))
        self._thread.start()
        assert started.wait(30)
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _serve(self, started):
        async def run():
            self._stop = asyncio.Event()
            self._tasks = set()
            server = await asyncio.start_server(self._client, "127.0.0.1", 0, limit=_HEAD_LIMIT)
            self.port = server.sockets[0].getsockname()[1]
            self.endpoint = f"http://127.0.0.1:{self.port}"
            started.set()
            async with server:
                await self._stop.wait()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(run())

    async def _client(self, reader, writer):
        """Serve a connection until it ends or a fault ends it."""
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, TimeoutError):
                while (request := await _read_request(reader, writer)) is not None:
                    if not await self._answer(request, reader, writer):
                        break
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, request, reader, writer):
        """Answer a request; return whether the connection goes on."""
        rule = self._rule(request)
        fault = rule.fault if rule else ""
        self.requests.append((request.method, request.path, fault))
        if fault in ERRORS:
            return await _send(writer, _error(request, *ERRORS[fault]))
        if fault == "timeout":
            await reader.read()  # the client gives up at some time
            return False
        if fault == "reset":
            return _reset(writer)
        answer = await self._ask(request)
        if fault == "applied":
            return _reset(writer)
        if fault == "applied-500":
            return await _send(writer, _error(request, 500, "InternalError"))
        answer = self._remembered(request, answer, fault)
        if fault in (*LISTINGS, HOLE):
            answer = _spoil_listing(answer, rule)
        elif fault:
            return await self._spoil(request, answer, rule, writer)
        return await _send(writer, answer, bodiless=request.method == "HEAD")

    def _rule(self, request):
        for number, rule in enumerate(self._rules):
            if rule.concerns(request) and self._random.random() < rule.probability:
                self._counts[number] += 1
                past = self._counts[number] - rule.nth
                if past >= 0 and (rule.times is None or past < rule.times):
                    return rule
        return None

    async def _ask(self, request):
        reader, writer = await asyncio.open_connection(*self._upstream, limit=_HEAD_LIMIT)
        try:
            writer.write(request.head + request.body)
            await writer.drain()
            return await _read_answer(reader, request.method)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def _remembered(self, request, answer, fault):
        """Take note of an answer; return an earlier one where the fault asks for it."""
        if request.lists:
            first = self._first.setdefault(request.target, answer)
            return first if fault == "stale" else answer
        if request.method == "GET" and answer.body:
            kind = next((kind for kind in ("packs", "trees", "envs", "gc") if f"/{kind}/" in request.path), "")
            other = self._bodies.setdefault(kind, answer.body)
            self._bodies[kind] = answer.body
            if fault == "other":
                return answer.with_body((other + bytes(len(answer.body)))[: len(answer.body)])
        return answer

    async def _spoil(self, request, answer, rule, writer):
        body, fault = answer.body, rule.fault
        amount = self._random.randrange(max(1, len(body))) if rule.amount is None else min(rule.amount, len(body))
        bodiless = request.method == "HEAD"
        if fault == "cut":
            await _send(writer, answer.with_body(body[:amount], length=len(body)), bodiless=bodiless)
            return False
        if fault == "reset-after":
            await _send(writer, answer.with_body(body[:amount], length=len(body)), bodiless=bodiless)
            return _reset(writer)
        if fault == "slow":
            return await self._trickle(writer, answer)
        if fault == "short":
            answer = answer.with_body(body[:amount])
        elif fault == "long":
            answer = answer.with_body(body + b"garbage")
        elif fault == "flip" and body:
            place = self._random.randrange(len(body))
            answer = answer.with_body(
                body[:place] + bytes([body[place] ^ 1 << self._random.randrange(8)]) + body[place + 1 :]
            )
        elif fault == "error-body":
            answer = answer.with_body(_error(request, 200, "InternalError").body)
        elif fault == "etag":
            answer = answer.with_header("ETag", '"00000000000000000000000000000000"')
        elif fault == "date":
            answer = answer.with_header("Date", "Wed, 21 Oct 2015 07:28:00 GMT")
        return await _send(writer, answer, bodiless=bodiless)

    async def _trickle(self, writer, answer):
        """Send the head, and then a byte now and then, for as long as the client has patience."""
        writer.write(answer.with_body(answer.body).head())
        for place in range(len(answer.body)):
            writer.write(answer.body[place : place + 1])
            await writer.drain()
            await asyncio.sleep(0.2)
        return True


async def _read_request(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (row.partition(":") for row in rest if row)}
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    if "chunked" in headers.get("transfer-encoding", ""):
        raise AssertionError("clients of S3 say how long a body is")
    length = int(headers.get("content-length", "0"))
    assert length <= _BODY_LIMIT
    body = await reader.readexactly(length)
    # One connection to the server for each request; neither header is signed.
    kept = [row for row in rest if row and row.partition(":")[0].lower() not in ("connection", "expect")]
    return Request(method, target, "\r\n".join([line, *kept, "Connection: close", "", ""]).encode("latin-1"), body)


async def _read_answer(reader, method):
    status, *rest = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    rows = [row.decode("latin-1").partition(":") for row in rest if row]
    headers = tuple((name, value.strip()) for name, _, value in rows if name.lower() != "connection")
    length = {name.lower(): value for name, value in headers}.get("content-length")
    number = int(status.split()[1])
    if method == "HEAD" or number in (204, 304):
        return Answer(status, headers, b"")
    body = await (reader.read(-1) if length is None else reader.readexactly(int(length)))
    answer = Answer(status, headers, body)
    return answer.with_body(_dechunked(body)) if length is None else answer


def _dechunked(body):
    """Return a body that came in chunks, or one that the end of the connection ends."""
    plain, rest = b"", body
    while match := re.match(rb"([0-9a-fA-F]+)[^\r\n]*\r\n", rest):
        size = int(match[1], 16)
        plain += rest[match.end() : match.end() + size]
        rest = rest[match.end() + size + 2 :]
        if not size:
            return plain
    return body


def _error(request, number, code):
    body = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>a fault</Message><Resource>"
    body = (body + f"{escape(request.path)}</Resource></Error>").encode()
    headers = (("Content-Type", "application/xml"), ("Content-Length", str(len(body))))
    return Answer(f"HTTP/1.1 {number} Fault".encode(), headers, body)


async def _send(writer, answer, *, bodiless=False):
    writer.write(answer.head() + (b"" if bodiless else answer.body))
    await writer.drain()
    return True


def _reset(writer):
    """Break the connection off, so that the other end sees a reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _spoil_listing(answer, rule):
    text, fault = answer.body.decode(), rule.fault
    entries = re.findall(r"<Contents>.*?</Contents>", text, re.DOTALL)
    if fault == "stale" or not entries:
        return answer
    if fault == HOLE:  # and no more: what comes after it is listed as it is
        for entry in entries:
            if re.search(rule.hides, _key(entry)):
                text = text.replace(entry, "", 1)
        return answer.with_body(text.encode())
    kept = {"empty": [], "half": entries[: len(entries) // 2], "twice": [entry for entry in entries for _ in "ab"]}
    start, end = text.index(entries[0]), text.rindex(entries[-1]) + len(entries[-1])
    text = text[:start] + "".join(kept.get(fault, entries)) + text[end:]
    text = re.sub(r"<NextContinuationToken>.*?</NextContinuationToken>", "", text, flags=re.DOTALL)
    more = "true" if fault == "no-token" else "false"
    text = re.sub(r"<IsTruncated>.*?</IsTruncated>", f"<IsTruncated>{more}</IsTruncated>", text)
    return answer.with_body(text.encode())


def _key(entry):
    return re.search(r"<Key>(.*?)</Key>", entry, re.DOTALL)[1]
