"""The NAT network, end to end: a "host", the "internet" and containers, each a network namespace of its own."""

import contextlib
import itertools
import json
import os
import select
import signal
import socket
import subprocess

import pyroute2  # noqa: F401  # once here, not in every child
import pytest

from envkit.drivers import addresses, firewall, libc, network, sysctl
from envkit.errors import Unavailable

pytestmark = pytest.mark.root

INTERNET = "198.51.100.1"
HOST = "198.51.100.2"
LAB = "203.0.113.1"
METADATA = "169.254.169.254"


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


_numbers = itertools.count()


class Namespace:
    """A network namespace, and the processes that run in it."""

    def __init__(self, name):
        self.name = f"envkit-test-{os.getpid()}-{next(_numbers)}-{name}"
        self.pids = []
        ip("netns", "add", self.name)
        self.ip("link", "set", "lo", "up")

    def ip(self, *words):
        ip("-n", self.name, *words)

    def call(self, function):
        """Run a function in a child inside this namespace; return what it returns (JSON), or raise RuntimeError."""
        reader, writer = os.pipe()
        pid = self._fork(lambda: os.write(writer, json.dumps(function()).encode()), close=reader)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(pid, 0)
        if status != 0:
            raise RuntimeError(f"the child failed: {answer!r}")
        return json.loads(answer)

    def serve(self, address, port, *, kind=socket.SOCK_STREAM):
        """Answer every connection or datagram with the sender's address."""
        ready, child_ready = os.pipe()

        def loop():
            with socket.socket(socket.AF_INET, kind) as server:
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                server.bind((address, port))
                if kind == socket.SOCK_STREAM:
                    server.listen()
                os.write(child_ready, b"1")
                while True:
                    if kind == socket.SOCK_DGRAM:
                        _, sender = server.recvfrom(100)
                        server.sendto(sender[0].encode(), sender)
                        continue
                    client, sender = server.accept()
                    with client, contextlib.suppress(OSError):
                        client.sendall(sender[0].encode())

        self.pids.append(self._fork(loop, close=ready))
        os.close(child_ready)
        assert os.read(ready, 1) == b"1"
        os.close(ready)

    def _fork(self, function, *, close):
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            os.close(close)
            descriptor = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            libc.setns(descriptor, 0)
            function()
            code = 0
        except BaseException as error:  # noqa: BLE001  # the child must never return into pytest
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

    def remove(self):
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ip("netns", "del", self.name)


def ask(address, port, *, kind=socket.SOCK_STREAM, source=None, timeout=0.4):
    """Return what the server at an address answers, or None when nothing comes."""

    def function():
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(timeout)
            try:
                if source:
                    client.bind((source, 0))
                client.connect((address, port))
                client.sendall(b"?")
                return client.recv(100).decode()
            except OSError:
                return None

    return function


def ping(address, *, timeout=0.4):
    """Tell whether an address answers an ICMP echo request."""

    def function():
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(timeout)
            raw.connect((address, 0))
            raw.send(b"\x08\x00\xf7\xff\x00\x00\x00\x00")
            try:
                return raw.recv(100)[20] == 0
            except OSError:
                return False

    return function


class World:
    """host --- internet, host --- lab, and containers on the host's bridge."""

    def __init__(self, stack, directory):
        self.stack = stack
        self.directory = directory
        self.host = self.namespace("h")
        # A namespace begins with what this machine has.
        self.host.call(lambda: sysctl.write("ipv4/ip_forward", "0"))
        self.internet = self.namespace("i")
        self.lab = self.namespace("l")
        self.join(self.internet, f"{INTERNET}/24", "up0", f"{HOST}/24")
        self.join(self.lab, f"{LAB}/24", "lab0", "203.0.113.2/24")
        self.host.ip("link", "set", "up0", "mtu", "1400")
        self.host.ip("route", "add", "default", "via", INTERNET)
        self.host.ip("route", "add", "10.197.0.0/16", "via", INTERNET)  # taken: the first candidates are skipped
        self.host.ip("route", "add", "198.18.0.0/15", "via", LAB)
        self.internet.ip("addr", "add", f"{METADATA}/32", "dev", "lo")
        self.internet.ip("route", "add", "default", "via", HOST)
        self.lab.ip("route", "add", "default", "via", "203.0.113.2")

    def namespace(self, name):
        made = Namespace(name)
        self.stack.callback(made.remove)
        return made

    def join(self, other, address, device, host_address):
        self.host.ip("link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", other.name)
        other.ip("addr", "add", address, "dev", "eth0")
        other.ip("link", "set", "eth0", "up")
        self.host.ip("addr", "add", host_address, "dev", device)
        self.host.ip("link", "set", device, "up")

    def ensure(self, **options):
        def function():
            nat = network.ensure_nat(self.directory, **options)
            return {field: getattr(nat, field) for field in network.Nat._fields}

        return network.Nat(**self.host.call(function))

    def lease(self, nat):
        """Lease an address in a process that ends at once."""

        def function():
            lease = addresses.allocate_address(nat, self.directory)
            return {field: getattr(lease, field) for field in addresses.Lease._fields}

        return addresses.Lease(**self.host.call(function))

    def container(self, name, nat):
        """Make what LXC makes of a lease."""
        lease, container = self.lease(nat), self.namespace(name)
        link = ("link", "add", lease.veth, "mtu", str(lease.mtu), "type", "veth", "peer", "name", "eth0")
        self.host.ip(*link, "mtu", str(lease.mtu), "address", lease.hardware_address, "netns", container.name)
        self.host.ip("link", "set", lease.veth, "master", lease.bridge, "up")
        container.ip("addr", "add", lease.address, "dev", "eth0")
        container.ip("link", "set", "eth0", "up")
        container.ip("route", "add", "default", "via", lease.gateway)
        return lease, container

    def devices(self):
        return self.host.call(lambda: [name for _, name in socket.if_nameindex()])


@pytest.fixture
def world(tmp_path):
    with contextlib.ExitStack() as stack:
        yield World(stack, str(tmp_path / "network"))


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    """Two containers on a network that is set up, for tests that change nothing."""
    with contextlib.ExitStack() as stack:
        world = World(stack, str(tmp_path_factory.mktemp("network")))
        world.nat = world.ensure()
        world.first_lease, world.first = world.container("a", world.nat)
        world.second_lease, world.second = world.container("b", world.nat)
        for address in (INTERNET, METADATA):
            world.internet.serve(address, 80)
            world.internet.serve(address, 53, kind=socket.SOCK_DGRAM)
        world.lab.serve(LAB, 80)
        world.host.serve("0.0.0.0", 8080)
        for address in (HOST, world.nat.gateway):
            world.host.serve(address, 53, kind=socket.SOCK_DGRAM)
        world.second.serve("0.0.0.0", 80)
        yield world


def test_a_container_reaches_the_outside_with_the_hosts_address(joined):
    assert joined.first.call(ask(INTERNET, 80)) == HOST
    assert joined.first.call(ask(INTERNET, 53, kind=socket.SOCK_DGRAM)) == HOST


def test_a_container_reaches_every_network_that_the_host_does(joined):
    assert joined.first.call(ask(LAB, 80)) == "203.0.113.2"


def test_the_network_avoids_what_the_host_has_and_takes_the_uplinks_mtu(joined):
    assert joined.nat == network.Nat(bridge="envkit0", subnet="172.29.224.0/24", gateway="172.29.224.1", mtu=1400)
    assert joined.first_lease.address == "172.29.224.2/24"
    assert joined.second_lease.address == "172.29.224.3/24"


def test_metadata_services_are_out_of_reach_but_their_dns_is_not(joined):
    assert joined.host.call(ask(METADATA, 80)) is not None
    assert joined.first.call(ask(METADATA, 80)) is None
    assert joined.first.call(ask(METADATA, 53, kind=socket.SOCK_DGRAM)) == HOST


def test_containers_do_not_reach_one_another(joined):
    assert joined.host.call(ask("172.29.224.3", 80)) == "172.29.224.1"
    assert joined.first.call(ask("172.29.224.3", 80)) is None
    assert joined.first.call(ping("172.29.224.3")) is False


def test_a_container_reaches_no_service_of_the_host_but_dns_and_ping(joined):
    for address in ("172.29.224.1", HOST):
        assert joined.host.call(ask(address, 8080)) is not None
        assert joined.first.call(ask(address, 8080)) is None
        assert joined.first.call(ask(address, 53, kind=socket.SOCK_DGRAM)) == "172.29.224.2"
    assert joined.first.call(ping("172.29.224.1")) is True


def test_nobody_outside_reaches_a_container_or_goes_through_the_host(joined):
    assert joined.internet.call(ask("172.29.224.3", 80)) is None
    assert joined.internet.call(ask(LAB, 80)) is None


def test_a_container_cannot_take_anothers_address(joined):
    joined.first.ip("addr", "add", "172.29.224.3/32", "dev", "lo")
    try:
        assert joined.first.call(ask(INTERNET, 53, kind=socket.SOCK_DGRAM, source="172.29.224.3")) is None
        arp = b"\xff" * 6 + bytes.fromhex(joined.first_lease.hardware_address.replace(":", "")) + b"\x08\x06"
        arp += b"\x00\x01\x08\x00\x06\x04\x00\x02" + arp[6:12] + bytes((172, 29, 224, 3)) + b"\xff" * 6
        arp += bytes((172, 29, 224, 1))

        def announce():
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind(("eth0", 0))
                return raw.send(arp)

        assert joined.first.call(announce) == len(arp)
        assert joined.second.call(ask(INTERNET, 80)) == HOST
    finally:
        joined.first.ip("addr", "del", "172.29.224.3/32", "dev", "lo")


def test_a_container_cannot_send_with_another_hardware_address(world):
    world.internet.serve(INTERNET, 80)
    _, container = world.container("c", world.ensure())
    assert container.call(ask(INTERNET, 80)) == HOST
    container.ip("link", "set", "eth0", "address", "02:65:ac:1d:e0:09")
    assert container.call(ask(INTERNET, 80)) is None


def test_setting_up_again_changes_nothing_and_repairs_flushed_rules(world):
    first = world.ensure()
    index = world.host.call(lambda: socket.if_nametoindex("envkit0"))
    world.internet.serve(INTERNET, 80)
    _, container = world.container("c", first)
    subprocess.run(["ip", "netns", "exec", world.host.name, "nft", "flush", "ruleset"], check=True)
    assert container.call(ask(INTERNET, 80)) == "172.29.224.2"  # not masqueraded
    assert world.ensure() == first
    assert world.host.call(lambda: socket.if_nametoindex("envkit0")) == index
    assert container.call(ask(INTERNET, 80)) == HOST


def test_many_processes_at_once_set_up_one_network(world):
    reader, writer = os.pipe()
    children = []
    for _ in range(6):
        children.append(
            world.host._fork(
                lambda: os.write(writer, network.ensure_nat(world.directory).subnet.encode() + b"\n"), close=reader
            )
        )
    os.close(writer)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 6
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"172.29.224.0/24\n" * 6


def test_a_bridge_that_a_crash_left_half_made_is_completed(world):
    world.host.ip("link", "add", "envkit0", "type", "bridge")
    os.makedirs(world.directory)
    with open(f"{world.directory}/state", "w") as file:
        file.write('{"nat": ')
    nat = world.ensure()
    world.internet.serve(INTERNET, 80)
    _, container = world.container("c", nat)
    assert container.call(ask(INTERNET, 80)) == HOST


def test_an_existing_bridge_keeps_its_subnet(world):
    first = world.ensure(subnet="10.44.7.0/24")
    os.unlink(f"{world.directory}/state")
    assert world.ensure() == first
    assert first.subnet == "10.44.7.0/24"


def test_another_device_with_the_bridges_name_is_left_alone(world):
    world.host.ip("link", "add", "envkit0", "type", "veth")

    def attempt():
        try:
            network.ensure_nat(world.directory)
        except Unavailable as error:
            return error.brief
        return "no error"

    assert world.host.call(attempt) == "a network device named envkit0 exists and is not a bridge"


def test_forwarding_is_turned_on_for_uplinks_only_and_off_again_by_teardown(world):
    def forwarding():
        names = ("ipv4/ip_forward", *(f"ipv4/conf/{device}/forwarding" for device in ("up0", "lab0", "lo")))
        return [sysctl.read(name) for name in names]

    assert world.host.call(forwarding) == ["0", "0", "0", "0"]
    world.ensure()
    # lab0 is a veth, but a route leads over a gateway there.
    assert world.host.call(forwarding) == ["0", "1", "1", "0"]
    world.ensure()
    world.host.call(lambda: network.teardown(world.directory))
    assert world.host.call(forwarding) == ["0", "0", "0", "0"]
    assert "envkit0" not in world.devices()
    assert world.host.call(lambda: subprocess.check_output(["nft", "list", "ruleset"]).decode()) == ""


def test_teardown_leaves_forwarding_that_the_machine_had_itself(world):
    world.host.call(lambda: sysctl.write("ipv4/ip_forward", "1"))
    world.ensure()
    assert world.host.call(lambda: sorted(firewall.opened_devices())) == []
    world.host.call(lambda: network.teardown(world.directory))
    assert world.host.call(lambda: sysctl.read("ipv4/conf/up0/forwarding")) == "1"


def test_an_address_stays_taken_while_its_device_exists(world):
    nat = world.ensure()
    lease, _ = world.container("c", nat)
    assert lease.number == 2
    assert world.lease(nat).number == 3
    assert world.lease(nat).number == 3  # the process that leased it is gone, and no device was made
    world.host.ip("link", "del", lease.veth)
    assert world.lease(nat).number == 2


def test_an_address_stays_taken_while_its_process_lives(world):
    nat = world.ensure()
    ready, child_ready = os.pipe()
    pid = world.host._fork(
        lambda: (
            addresses.allocate_address(nat, world.directory),
            os.write(child_ready, b"1"),
            signal.pause(),
        ),
        close=ready,
    )
    try:
        assert select.select([ready], [], [], 10)[0]
        assert world.lease(nat).number == 3
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(child_ready)
    assert world.lease(nat).number == 2


def test_an_obstacle_is_named_until_the_other_filter_lets_containers_through(world):
    world.ensure()
    assert world.host.call(lambda: len(firewall.obstacles("envkit0"))) == 0
    docker = "add table ip filter; add chain ip filter DOCKER-USER;"
    docker += "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
    command = ["ip", "netns", "exec", world.host.name, "nft"]
    subprocess.run([*command, docker], check=True)
    world.internet.serve(INTERNET, 80)
    _, container = world.container("c", world.ensure())
    assert container.call(ask(INTERNET, 80)) is None
    found = world.host.call(lambda: [item.resolution for item in firewall.obstacles("envkit0")])
    assert len(found) == 1
    assert "iptables -I DOCKER-USER -i envkit0 -j ACCEPT" in found[0]
    for rule in ("iifname envkit0 accept", "oifname envkit0 ct state established,related accept"):
        subprocess.run([*command, f"insert rule ip filter FORWARD {rule}"], check=True)
    assert container.call(ask(INTERNET, 80)) == HOST
    assert world.host.call(lambda: len(firewall.obstacles("envkit0"))) == 0


def test_a_second_call_needs_no_netlink_library(world):
    world.ensure()

    def again():
        network._netlink = None
        return network.ensure_nat(world.directory).gateway

    assert world.host.call(again) == "172.29.224.1"
