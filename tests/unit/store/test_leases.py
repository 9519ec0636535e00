"""Leases: held, renewed, lost, expired; and that none of it overwrites anything."""

import threading

import pytest
from aging import HOUR, MINUTE, age

from envkit.errors import EXIT_CONFLICT
from envkit.store import leases
from envkit.store.errors import StoreUnwritable
from envkit.store.leases import EXPIRY, PATIENCE, Lease, LeaseLost
from envkit.store.open import init_store


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def store(tmp_path):
    return init_store(str(tmp_path / "store"))


@pytest.fixture
def clock():
    return Clock()


def _keys(store):
    return list(store.list("leases/"))


def test_a_lease_is_there_until_it_is_released(store):
    lease = Lease(store)
    assert _keys(store) == [f"leases/{lease.identity}-00000001"]
    lease.check()
    lease.release()
    assert _keys(store) == []
    with pytest.raises(LeaseLost):
        lease.check()


def test_signs_of_life_never_overwrite_and_the_anchor_stays(store, clock):
    lease = Lease(store, clock=clock)
    for number in (2, 3, 4):
        clock.now += 4 * MINUTE
        lease.renew()
        assert _keys(store) == [f"leases/{lease.identity}-{n:08}" for n in (1, number)]
    clock.now += PATIENCE
    lease.check()
    lease.release()
    assert _keys(store) == []


def test_a_writer_gives_up_before_others_give_it_up(store, clock):
    assert PATIENCE < EXPIRY
    lease = Lease(store, clock=clock)
    clock.now += PATIENCE + 1
    with pytest.raises(LeaseLost, match="lost its hold on the store") as caught:
        lease.check()
    assert caught.value.exit_code == EXIT_CONFLICT
    assert "asleep" in caught.value.details


def test_who_wakes_too_late_cannot_renew(store, clock):
    lease = Lease(store, clock=clock)
    clock.now += PATIENCE + 1
    with pytest.raises(LeaseLost):
        lease.renew()
    clock.now -= PATIENCE  # nor does it come back
    with pytest.raises(LeaseLost):
        lease.check()


def test_a_sign_of_life_that_took_too_long_is_none(store, clock):
    lease = Lease(store, clock=clock)
    put = store.put_if_absent

    def slow(key, data):
        clock.now += PATIENCE + 1
        return put(key, data)

    store.put_if_absent = slow
    with pytest.raises(LeaseLost):
        lease.renew()


def test_a_sign_of_life_that_failed_is_tried_again_under_another_number(store, clock):
    lease = Lease(store, clock=clock)
    put = store.put_if_absent

    def lose_the_answer(key, data):
        put(key, data)
        raise StoreUnwritable(store.url, "no answer")

    store.put_if_absent = lose_the_answer
    with pytest.raises(StoreUnwritable):
        lease.renew()
    store.put_if_absent = put
    lease.renew()
    assert f"leases/{lease.identity}-00000003" in _keys(store)
    lease.check()


def test_a_lease_whose_anchor_was_removed_is_lost_whatever_the_clock_says(store, clock):
    lease = Lease(store, clock=clock)
    lease.renew()
    (held,) = leases.held(store)
    leases.remove(store, held)
    assert _keys(store) == []
    for attempt in (lease.check, lease.renew):
        with pytest.raises(LeaseLost):
            attempt()


def test_a_sign_of_life_that_crosses_the_removal_does_not_bring_the_lease_back(store, clock):
    lease = Lease(store, clock=clock)
    put = store.put_if_absent

    def removed_meanwhile(key, data):
        (held,) = leases.held(store)
        leases.remove(store, held)
        return put(key, data)

    store.put_if_absent = removed_meanwhile
    with pytest.raises(LeaseLost):
        lease.renew()


def test_a_lease_expires_by_its_last_sign_of_life(store):
    lease = Lease(store)
    age(store.url, 13 * HOUR, "leases/")
    (held,) = leases.held(store)
    assert held.is_expired(store.now())
    lease.renew()
    (held,) = leases.held(store)
    assert not held.is_expired(store.now())
    assert held.keys[0].endswith("-00000001")
    assert "process" in leases.owner(store, held)


def test_foreign_and_damaged_leases_are_no_reason_to_fail(store):
    store.put_if_absent("leases/README", b"")
    store.put_if_absent(f"leases/{'ab' * 16}-00000007", b"not a note\x1b[31m")
    (held,) = leases.held(store)
    assert leases.owner(store, held) == "writer abababab"


def test_the_lock_is_not_held_while_nobody_asks(store):
    lease = Lease(store)
    threads = [threading.Thread(target=lease.renew) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert _keys(store) == [f"leases/{lease.identity}-{n:08}" for n in (1, 9)]
