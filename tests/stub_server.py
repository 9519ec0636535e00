"""An HTTP server whose every answer a test writes down beforehand, to see what a client of S3 makes of it."""

import socket
import threading
import time

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


def answer(status=200, body=b"", *, length=None, sent=None, hang=0.0, **headers):
    """An answer; `length` is the Content-Length that is claimed, `sent` the part of the body that is sent."""
    fields = {
        "Content-Length": len(body) if length is None else length,
        "ETag": '"e"',
        "Last-Modified": DATE,
        "Connection": "close",
    }
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = f"HTTP/1.1 {status} Answer\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in fields.items() if value is not None
    )
    return head.encode() + b"\r\n" + (body if sent is None else body[:sent]), hang


def error(status, code, text=""):
    """An error as S3 tells it."""
    return answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code>{text}</Error>".encode())


def partial(body, start, total, **options):
    """A range."""
    return answer(206, body, Content_Range=f"bytes {start}-{start + len(body) - 1}/{total}", **options)


def listing(*keys, token=None):
    """A page of a listing; keys are names, or pairs of name and size."""
    found = [key if isinstance(key, tuple) else (key, 1) for key in keys]
    items = "".join(
        f"<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>2015-10-21T07:28:00.000Z</LastModified>"
        f'<ETag>"e"</ETag></Contents>'
        for name, size in found
    )
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    return answer(200, f"<ListBucketResult>{more}{items}</ListBucketResult>".encode())


GONE = (b"", 0.0)
"""The connection is closed without an answer."""


class StubServer:
    """Answers one request a connection, in the order of `answers`; `requests` are (method, target, body)s.

    `fields` are the last request's, by name in lower case.
    """

    def __init__(self):
        self.answers = []
        self.requests = []
        self.fields = {}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def methods(self):
        return [method for method, _, _ in self.requests]

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self):
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with connection, connection.makefile("rb") as stream:
            line = stream.readline()
            if not line.isascii() or not line.strip():
                connection.sendall(b"HTTP/1.1 400 This is no HTTP\r\n\r\n")
                return
            fields = {}
            while (header := stream.readline().strip()) != b"":
                name, _, value = header.decode().partition(":")
                fields[name.lower()] = value.strip()
            self.fields = fields
            length = int(fields.get("content-length", 0))
            method, target, _ = line.decode().split()
            body = stream.read(length)
            self.requests.append((method, target, body))
            data, hang = self.answers.pop(0) if self.answers else error(500, "NothingPlanned")
            connection.sendall(data)
            time.sleep(hang)
