"""Owns what is tried with several guests at one hub: what is saved on the head of a cluster runs on its nodes.

The head has the store, a real S3 server. The nodes have never seen an environment of it, and fetch what they read.
"""

import concurrent.futures
import contextlib
import json

from vm.network import address, connect
from vm.suite import INSIDE, TINY

_HEAD = 1
_NODES = {"node1": 2, "node2": 3}
_S3 = "/var/lib/s3"
_BIG = 24_000_000
_SERVE = f"""
systemd-run --quiet --unit=s3 --setenv=ENVKIT_TEST_SLOWNESS=10 {INSIDE}/scripts/s3-server --listen "$1" {_S3}
until test -e {_S3}/env; do systemctl is-active --quiet s3 || {{ journalctl -u s3 >&2; exit 1; }}; sleep 1; done
cat {_S3}/env
"""
_FILL = f"head -c {_BIG} /dev/urandom >/opt/big && echo kept >/opt/file"
_PIECE = "dd if=/opt/big bs=65536 skip=200 count=4 2>/dev/null | sha256sum; cat /opt/file"


def cluster(head, stage):
    """An environment is saved on the head of a cluster into its S3 server, and two nodes run it, fetching what they read.

    :raises AssertionError: a node reads something else, or it comes in another way.
    """
    connect(head, "head", _HEAD)
    settings = _served(head)

    def run(guest, *words):
        return guest.run("envkit", *words, env=settings)

    run(head, "store", "init", settings["ENVKIT_STORE"]).ok()
    head.sh(TINY, env=settings).ok()
    run(head, "create", "work", "--base", "tiny", "--no-shell").ok()
    run(head, "exec", "work", "--", "sh", "-c", _FILL).ok()
    piece = run(head, "exec", "work", "--", "sh", "-c", _PIECE).ok()
    whole = run(head, "exec", "work", "--", "sha256sum", "/opt/big").ok()
    version = run(head, "save", "work", "--close").ok()
    before = dict(stage.hub.received)

    def on_node(name):
        with stage.another(name) as node:
            connect(node, name, _NODES[name])
            fetched = _fetched(run(node, "run", "-e", version, "--stats", "--json", "--", "sh", "-c", _PIECE), piece)
            carried = stage.hub.received[name]
            assert 4 * 65536 < fetched["bytes"] < _BIG / 4, f"{name} did not fetch just what it read: {fetched}"
            assert fetched["bytes"] < carried < _BIG / 2, f"{name} got {carried} bytes, and says {fetched}"
            _fetched(run(node, "run", "-e", version, "--stats", "--json", "--", "sha256sum", "/opt/big"), whole)
            assert stage.hub.received[name] > _BIG, f"{name} has {_BIG} bytes from elsewhere"
            carried = stage.hub.received[name]
            again = _fetched(run(node, "run", "-e", version, "--stats", "--json", "--", "sha256sum", "/opt/big"), whole)
            carried = stage.hub.received[name] - carried
            # Start packs of the runs before are merged meanwhile, for which the node reads the first one.
            assert carried < _BIG / 2, f"{name} gets {carried} bytes of what it has: {again}{_cost(node)}"
            assert again["bytes"] == 0, f"{name} fetches again what it has: {again}"
            return f"{name} fetched {fetched['bytes']} bytes of {_BIG} in {fetched['requests']} requests"

    with concurrent.futures.ThreadPoolExecutor() as pool:
        told = [*pool.map(on_node, _NODES)]
    assert stage.hub.received["head"] > before["head"], "no node has talked to the head"
    return ", ".join(told)


def _served(head):
    """Start the S3 server of the head; return the settings with which it is reached."""
    lines = head.sh(_SERVE, address(_HEAD), timeout=1200).ok().splitlines()
    return dict(line.removeprefix("export ").split("=", 1) for line in lines)


def _cost(node):
    """Return what a node's image server says that it did."""
    return node.sh(
        "envkit stat --json; ls -lR /var/lib/envkit/cache; tail -n 50 /var/lib/envkit/cache/*.log || true"
    ).text


def _fetched(outcome, expected):
    """A run said what was expected; return what it says of its cost."""
    assert outcome.ok() == expected, f"it reads {outcome.text!r} and not {expected!r}"
    with contextlib.suppress(IndexError):
        return json.loads([line for line in outcome.err.decode().splitlines() if line.startswith("{")][-1])
    raise AssertionError(f"no costs were told: {outcome.err.decode()}")
