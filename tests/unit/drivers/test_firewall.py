import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envkit.drivers import firewall
from envkit.drivers.process import Result
from envkit.errors import Unavailable

SUBNET = "10.197.3.0/24"


def chain(family, table, name, **base):
    return {"chain": {"family": family, "table": table, "name": name, "handle": 1, **base}}


def forward(family, table, name, policy="drop"):
    return chain(family, table, name, type="filter", hook="forward", prio=0, policy=policy)


def rule(family, table, name, device):
    match = {"match": {"op": "==", "left": {"meta": {"key": "iifname"}}, "right": device}}
    return {"rule": {"family": family, "table": table, "chain": name, "expr": [match, {"accept": None}]}}


def listing(*objects):
    return json.dumps({"nftables": [{"metainfo": {"version": "1.0.6"}}, *objects]}).encode()


def test_a_port_has_one_name_one_address_and_one_hardware_address():
    assert firewall.port_name(17) == "envkit-17"
    assert firewall.port_address(SUBNET, 17) == "10.197.3.17"
    assert firewall.hardware_address("10.197.3.17") == "02:65:0a:c5:03:11"


def test_port_names_fit_into_the_kernels_sixteen_bytes():
    assert len(firewall.port_name(firewall.LAST_PORT)) < 16


def test_the_ruleset_replaces_each_table_in_one_transaction():
    text = firewall.ruleset("envkit0", SUBNET, [])
    for family in ("inet", "bridge"):
        head = f"table {family} envkit {{}}\ndelete table {family} envkit\ntable {family} envkit {{\n"
        assert text.count(head) == 1
    assert "flush ruleset" not in text


def test_the_ruleset_masquerades_the_subnet_and_nothing_else():
    text = firewall.ruleset("envkit0", SUBNET, [])
    assert text.count("masquerade") == 1
    assert 'ip saddr 10.197.3.0/24 oifname != "envkit0" masquerade' in text


def test_only_the_253_ports_of_the_subnet_may_send():
    text = firewall.ruleset("envkit0", SUBNET, [])
    elements = text.partition('elements = { "envkit-2"')[2].partition("}")[0]
    assert elements.count("envkit-") == 252
    assert '"envkit-254" . 02:65:0a:c5:03:fe . 10.197.3.254' in elements


def test_opened_devices_are_a_set_that_may_be_empty():
    assert '  set opened { type ifname; elements = { "eth0", "wlan0" }; }\n' in firewall.ruleset(
        "envkit0", SUBNET, ["wlan0", "eth0"]
    )
    assert "  set opened { type ifname; }\n" in firewall.ruleset("envkit0", SUBNET, [])


def test_a_missing_nft_is_told_with_the_package_that_has_it(monkeypatch):
    monkeypatch.setattr(firewall, "find_program", lambda name: None)
    with pytest.raises(Unavailable) as caught:
        firewall.load("")
    assert caught.value.brief == "the program nft is not installed, the nat network needs it"
    assert caught.value.resolution == "run `apt install nftables`"
    assert firewall.opened_devices() == frozenset()


def test_opened_devices_are_read_back_from_the_kernel(monkeypatch):
    monkeypatch.setattr(firewall, "find_program", lambda name: f"/usr/sbin/{name}")
    answer = listing({"set": {"family": "inet", "name": "opened", "table": "envkit", "elem": ["eth0", "ib0"]}})
    monkeypatch.setattr(firewall, "run", lambda *a, **k: Result(argv=("nft",), code=0, stdout=answer, stderr=b""))
    assert firewall.opened_devices() == {"eth0", "ib0"}


def test_no_table_means_no_opened_devices(monkeypatch):
    monkeypatch.setattr(firewall, "find_program", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(firewall, "run", lambda *a, **k: Result(argv=("nft",), code=1, stdout=b"", stderr=b"no table"))
    assert firewall.opened_devices() == frozenset()


def test_dockers_dropping_policy_is_an_obstacle_with_dockers_own_chain_as_fix():
    found = firewall.blocking_chains(
        listing(forward("ip", "filter", "FORWARD"), chain("ip", "filter", "DOCKER-USER")), "envkit0"
    )
    assert found == [
        firewall.Obstacle(
            problem="the chain FORWARD of the table `ip filter` drops what containers send",
            resolution="run `iptables -I DOCKER-USER -i envkit0 -j ACCEPT` and `iptables -I DOCKER-USER -o envkit0"
            " -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT`",
        )
    ]


def test_without_docker_the_fix_names_the_forward_chain():
    (found,) = firewall.blocking_chains(listing(forward("ip", "filter", "FORWARD")), "envkit0")
    assert "iptables -I FORWARD -i envkit0 -j ACCEPT" in found.resolution


def test_another_tables_dropping_chain_is_named():
    (found,) = firewall.blocking_chains(listing(forward("inet", "site", "through")), "envkit0")
    assert found.problem == "the chain through of the table `inet site` drops what containers send"
    assert found.resolution == "let that chain accept traffic from and to the device envkit0"


def test_firewalld_is_an_obstacle_although_its_policy_is_to_accept():
    (found,) = firewall.blocking_chains(listing(forward("inet", "firewalld", "filter_FORWARD", "accept")), "envkit0")
    assert found.resolution.startswith("run `firewall-cmd --permanent --zone=trusted --add-interface=envkit0`")


@pytest.mark.parametrize(
    "objects",
    [
        [forward("ip", "filter", "FORWARD", "accept")],
        [forward("ip6", "filter", "FORWARD")],
        [chain("ip", "filter", "INPUT", type="filter", hook="input", prio=0, policy="drop")],
        [forward("ip", "filter", "FORWARD"), rule("ip", "filter", "FORWARD", "envkit0")],
        [],
    ],
)
def test_what_lets_containers_through_is_no_obstacle(objects):
    assert firewall.blocking_chains(listing(*objects), "envkit0") == []


def test_a_rule_for_a_device_with_a_longer_name_does_not_count():
    objects = [forward("ip", "filter", "FORWARD"), rule("ip", "filter", "FORWARD", "envkit01")]
    assert len(firewall.blocking_chains(listing(*objects), "envkit0")) == 1


@settings(max_examples=40)
@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda c: (
            st.lists(c)
            | st.dictionaries(st.sampled_from(["nftables", "chain", "rule", "hook", "policy", "family", "table"]), c)
        ),
    ).map(lambda value: json.dumps({"nftables": value}).encode())
)
def test_odd_output_of_nft_is_no_obstacle_and_no_crash(document):
    assert isinstance(firewall.blocking_chains(document, "envkit0"), list)
