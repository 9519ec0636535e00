"""The estimates find simulated links and are not put off by outliers."""

import random

import pytest

from envkit.ondemand import link as module
from envkit.ondemand.link import BANDWIDTH, ROUND_TRIP, Link

LINKS = [(0.020, 125e6), (0.001, 312e6), (0.040, 12.5e6), (0.200, 125e6), (0.000_2, 1.25e9), (0.100, 1e6)]


def teach(link, round_trip, bandwidth, requests, *, seed=1, sizes=(4_000, 60_000, 500_000, 4_000_000), spoil=0.0):
    luck = random.Random(seed)
    for _ in range(requests):
        size = luck.choice(sizes)
        in_flight = luck.randint(1, 16)
        seconds = (round_trip + size * in_flight / bandwidth) * luck.uniform(0.8, 1.25)
        link.observe(size, seconds * (100 if luck.random() < spoil else 1), in_flight)


@pytest.mark.parametrize(("round_trip", "bandwidth"), LINKS)
@pytest.mark.parametrize("spoil", [0.0, 0.03])
def test_it_finds_a_link(round_trip, bandwidth, spoil):
    link = Link()
    teach(link, round_trip, bandwidth, 300, spoil=spoil)
    assert round_trip / 2 < link.round_trip < round_trip * 2
    assert bandwidth / 2 < link.bandwidth < bandwidth * 2


def test_a_dozen_requests_are_enough_for_a_rough_idea():
    link = Link()
    teach(link, 0.020, 125e6, 12)
    assert 0.01 < link.round_trip < 0.04
    assert 40e6 < link.bandwidth < 300e6


def test_it_follows_a_link_that_changes():
    link = Link()
    for round_trip, bandwidth in LINKS:
        teach(link, round_trip, bandwidth, 300)
        assert round_trip / 2 < link.round_trip < round_trip * 2
        assert bandwidth / 2 < link.bandwidth < bandwidth * 2


def test_requests_of_one_size_are_expected_right_at_least():
    for size in (1000, 1_000_000):
        link = Link()
        teach(link, 0.050, 50e6, 300, sizes=(size,))
        assert 0.7 < link.expected(size, 8) / (0.050 + size * 8 / 50e6) < 1.4


def test_one_outlier_moves_little():
    link = Link(0.020, 125e6)
    teach(link, 0.020, 125e6, 100)
    before = link.round_trip, link.bandwidth
    link.observe(100, 60.0, 1)
    link.observe(10_000_000, 600.0, 1)
    assert link.round_trip < before[0] * 1.2
    assert link.bandwidth > before[1] / 1.2


def test_nonsense_is_not_believed():
    link = Link()
    for size, seconds, in_flight in ((0, 1, 1), (-5, 1, 1), (100, 0, 1), (100, -1, 1)):
        link.observe(size, seconds, in_flight)
    assert (link.round_trip, link.bandwidth) == (ROUND_TRIP, BANDWIDTH) == (0.020, 12.5e6)
    for _ in range(1000):
        link.observe(1 << 30, 1e-9, 0)
        link.observe(1, 1e9, 0)
    assert 0 < link.round_trip <= 5
    assert 0 < link.bandwidth <= 1e11
    for _ in range(1000):
        link.observe(1, 1e-9, 0)
        link.observe(1 << 30, 1e9, 10)
    assert 0 < link.round_trip <= 5
    assert link.bandwidth > 1000


@pytest.mark.parametrize(
    ("round_trip", "bandwidth", "gap"),
    [(0.020, 125e6, 1_250_000), (0.020, 12.5e6, 125_000), (0.000_1, 125e6, 64 << 10), (0.2, 1e9, 1280 << 10)],
)
def test_a_gap_costs_at_most_half_a_round_trip(round_trip, bandwidth, gap):
    assert Link(round_trip, bandwidth).gap == gap


def test_patience_is_for_an_outage_and_not_for_each_who_comes_into_it(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    link = Link()
    assert link.patience(60) == 60
    link.failed()
    assert link.patience(60) == 60
    clock[0] += 45
    link.failed()
    assert link.patience(60) == 15
    clock[0] += 1000
    assert link.patience(60) == 10
    assert link.patience(4) == 4
    link.observe(1000, 0.1, 1)
    assert link.patience(60) == 60
