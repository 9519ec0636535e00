"""Owns the servers of `cold_start`, at the far end of its link: S3, a registry of images, files by HTTP."""

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cold_link
from cold_link import Link
from cold_measure import ServerGroup

_S3_SERVER = Path(__file__).parents[1] / "scripts" / "s3-server"
_REGISTRY_PORT = 5000
_WEB_PORT = 8000
_REGISTRY = """\
version: 0.1
log: {{level: error, accesslog: {{disabled: true}}}}
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: "{address}:{port}"}}
"""


@dataclass(frozen=True)
class S3:
    """Variables with which an S3 server is reached: by clients, over the link, and beside it."""

    far: dict[str, str]
    near: dict[str, str]


@contextlib.contextmanager
def s3(link: Link, group: ServerGroup, directory: Path) -> Iterator[S3]:
    """Run an S3 server with a bucket of its own, which is in a directory."""
    argv = group.inside(link.at_server(str(_S3_SERVER), str(directory)))
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            settings = dict(line.removeprefix("export ").strip().split("=", 1) for line in server.stdout)
            if "AWS_ENDPOINT_URL" not in settings:
                raise SystemExit(f"the S3 server does not start: {server.stderr.read()}")
            port = settings["AWS_ENDPOINT_URL"].rpartition(":")[2]
            link.forward(int(port))
            yield S3(settings | {"AWS_ENDPOINT_URL": f"http://{cold_link.SERVER}:{port}"}, settings)
        finally:
            server.terminate()


@contextlib.contextmanager
def registry(link: Link, group: ServerGroup, directory: Path, scratch: Path) -> Iterator[str]:
    """Run a registry of images that keeps them in a directory; give its address."""
    config = scratch / "registry.yml"
    config.write_text(_REGISTRY.format(directory=directory, address=cold_link.SERVER, port=_REGISTRY_PORT))
    with _server(link, group, scratch / "registry.log", _REGISTRY_PORT, "docker-registry", "serve", str(config)):
        yield f"{cold_link.SERVER}:{_REGISTRY_PORT}"


@contextlib.contextmanager
def web(link: Link, group: ServerGroup, directory: Path, scratch: Path) -> Iterator[str]:
    """Serve the files of a directory to everybody; give its URL."""
    address = f"{cold_link.SERVER}:{_WEB_PORT}"
    argv = ("rclone", "serve", "http", "--config", "/dev/null", "--addr", address, str(directory))
    with _server(link, group, scratch / "web.log", _WEB_PORT, *argv):
        yield f"http://{address}"


@contextlib.contextmanager
def _server(link: Link, group: ServerGroup, log: Path, port: int, *argv: str) -> Iterator[None]:
    with open(log, "wb") as file:
        command = group.inside(link.at_server("setpriv", "--pdeathsig", "KILL", *argv))
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(server, port, argv[0])
        yield
    finally:
        server.kill()
        server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, name: str) -> None:
    deadline = time.monotonic() + 10
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection((cold_link.SERVER, port), timeout=1).close()
            return
        time.sleep(0.05)
    raise SystemExit(f"{name} does not answer")
