"""Whatever a network and a server of S3 do: the right bytes or one clear error, and nothing is lost.

A sample of faults and operations; `scripts/torture --area http --all` takes all of them, at ten places each.
"""

import random

import pytest
from fault_proxy import FAULTS, FaultProxy, Rule
from faults.bucket_world import OPERATIONS, Bucket, BucketWorld, requests, rules, sample, tried
from faults.campaign import told
from faults.scenarios import SEED
from torture_support import Tally, Violation

pytestmark = [pytest.mark.root, pytest.mark.lxc]

_SAMPLE = 27


@pytest.fixture(scope="module")
def bucket(zygote, disk, s3):
    """The operations on a world behind a proxy."""
    host, _, port = s3.endpoint.removeprefix("http://").partition(":")
    with FaultProxy(host, int(port), seed=SEED) as proxy:
        yield Bucket(BucketWorld(f"{disk}/bucket", zygote, s3, proxy, seed=SEED).begin())


@pytest.fixture(scope="module")
def made(bucket):
    """The requests of each operation."""
    return {operation: requests(bucket, operation) for operation in OPERATIONS}


def test_every_operation_goes_through_the_proxy(made):
    for operation, found in made.items():
        assert len(found) >= 2, operation
    assert {method for found in made.values() for method, _, _ in found} >= {"GET", "PUT", "HEAD"}
    assert any("list" in operation for operation in made)


def test_a_fault_gives_the_right_bytes_or_a_clear_error(bucket, made):
    rng, tally, met = random.Random(SEED), Tally(), set()
    for operation, fault in sample(SEED, _SAMPLE):
        before = tally.faults
        tried(bucket, operation, rules(fault, made[operation], rng), tally)
        if tally.faults > before:
            met.add(fault)
    print(f"http: {tally}; {len(met)} of {len(FAULTS)} kinds")  # noqa: T201
    assert [f"{violation.fault}: {told(violation)}" for violation in tally.violations] == []
    assert len(met) > len(FAULTS) / 2
    assert tally.errors
    assert tally.acked > 10


def test_a_flipped_bit_that_is_not_looked_for_is_noticed(bucket):
    """Without verification wrong bytes come out, and the judge sees them. Eagerly: the image server is no child."""
    own = bucket.own_packs()
    bucket.world.proxy.rules = [Rule("flip", method="GET", key="|".join(own), times=None)]
    usual = bucket.world.run
    bucket.world.run = lambda verb, *argv, **options: usual(verb, "--eager", *argv, broken="no-verification", **options)
    try:
        outcome, judge = bucket.run()
        assert bucket.world.proxy.met
        assert outcome.code == 0
        with pytest.raises(Violation, match="wrong"):
            judge(outcome)
    finally:
        bucket.world.run = usual
        bucket.world.proxy.rules = []
