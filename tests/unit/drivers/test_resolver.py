import pytest
from hypothesis import given
from hypothesis import strategies as st

from envkit.drivers.resolver import container_resolv_conf, host_nameservers, resolv_conf
from envkit.errors import Unavailable

STUB = "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch example.org\n"


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_servers_that_a_container_reaches_stay_with_search_and_options():
    text = "# by hand\nnameserver 10.0.0.53\nnameserver 127.0.0.1\nsearch a.example b.example\noptions ndots:2\nsortlist x\n"
    expected = b"nameserver 10.0.0.53\nsearch a.example b.example\noptions ndots:2\n"
    assert container_resolv_conf(text) == expected


@pytest.mark.parametrize(
    "server", ["127.0.0.53", "127.1.2.3", "::1", "0.0.0.0", "2001:db8::53", "fe80::1%eth0", "dns", "1.2.3"]
)
def test_loopback_ipv6_and_nonsense_do_not_count(server):
    assert container_resolv_conf(f"nameserver {server}\n") is None


def test_three_servers_are_enough():
    content = container_resolv_conf("".join(f"nameserver 10.0.0.{n}\n" for n in range(1, 6)))
    assert content.count(b"nameserver") == 3


def test_the_servers_behind_a_local_stub_are_used(tmp_path):
    write(tmp_path, "etc/resolv.conf", STUB)
    write(tmp_path, "run/systemd/resolve/resolv.conf", "nameserver 192.0.2.53\nsearch example.org\n")
    assert resolv_conf(root=str(tmp_path)) == b"nameserver 192.0.2.53\nsearch example.org\n"
    assert host_nameservers(root=str(tmp_path)) == ["127.0.0.53", "192.0.2.53"]


def test_a_host_with_a_loopback_server_only_is_told_what_to_do(tmp_path):
    write(tmp_path, "etc/resolv.conf", STUB)
    with pytest.raises(Unavailable) as caught:
        resolv_conf(root=str(tmp_path))
    assert caught.value.brief == (
        "the host's DNS server listens on loopback or IPv6 only (127.0.0.53), containers cannot reach it"
    )
    assert caught.value.resolution == "add a `nameserver` line with an IPv4 address of the network to /etc/resolv.conf"


def test_a_host_without_dns_is_told_so(tmp_path):
    with pytest.raises(Unavailable, match=r"no DNS server is named in /etc/resolv.conf"):
        resolv_conf(root=str(tmp_path))


@given(st.text())
def test_any_text_gives_lines_that_are_meant_for_a_resolv_conf_or_nothing(text):
    content = container_resolv_conf(f"nameserver 10.0.0.1\n{text}")
    for line in content.decode().splitlines():
        assert line.split()[0] in ("nameserver", "search", "domain", "options")
