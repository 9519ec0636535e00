"""Writers and collections, interleaved at every store operation: nothing that somebody may rely on is ever lost.

More of it: ENVKIT_MODEL_EXAMPLES=10000 pytest tests/model. A failure prints the steps that led to it.
"""

import contextlib
import os

import pytest
from collection_model import DAY, HOUR, MINUTE, Lost, World, name
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from envkit.content import treefile
from envkit.services import collecting, marking, publishing
from envkit.services.publishing import DataCollected
from envkit.store import epochs
from envkit.store.leases import LeaseLost

EXAMPLES = int(os.environ.get("ENVKIT_MODEL_EXAMPLES", "100"))
A, B = name("a"), name("b")
_ENVS = st.sampled_from((A, B))
_TEXTS = st.sampled_from(("x", "y", "xy", "xz", "yz", "xyz"))
_SPANS = st.sampled_from((MINUTE, 30 * MINUTE, 5 * HOUR, 13 * HOUR, 25 * HOUR, 8 * DAY))
_WHO = st.integers(0, 5)
_TURNS = st.sampled_from((1, 1, 2, 3, 5, 8))
# Where an interruption hurts: before a version appears, before a deletion, between two looks at the same thing.
_PLACES = st.sampled_from(
    (("put", "envs/"), ("put", "trees/"), ("put", "gc/"), ("write", "gc/"), ("delete", "packs/"), ("delete", "trees/"), ("list", "gc/"), ("list", "envs/"), ("put", "leases/"), ("status", "leases/"), ("put", "roots/"), ("delete", "roots/"))
)  # fmt: skip
_MOST = 5


def _prepare(world):
    """Leave a pack of the text x that is old and that nothing needs; both machines know of it."""
    world.run(world.writer(A, "x"))
    world.run(world.deletion(A, 1))
    world.pass_time(8 * DAY)
    (tree,) = (key for key in world.objects if key.startswith("trees/"))
    for index in world.indexes:
        index.learn(tree[-64:], treefile.decode_chunks(world.objects[tree][0], tree[-64:]))


class Store(RuleBasedStateMachine):
    """Anything may happen, in any order."""

    breaking = contextlib.nullcontext

    def __init__(self):
        super().__init__()
        self.broken = type(self).breaking()
        self.world = World().__enter__()
        _prepare(self.world)
        self.broken.__enter__()

    def teardown(self):
        self.broken.__exit__(None, None, None)
        self.world.__exit__()

    def room(self):
        return sum(not actor.finished for actor in self.world.actors) < _MOST

    def somebody(self):
        return any(not actor.finished for actor in self.world.actors)

    def actor(self, who):
        busy = [actor for actor in self.world.actors if not actor.finished]
        return busy[who % len(busy)]

    @precondition(room)
    @rule(env=_ENVS, texts=_TEXTS, node=st.integers(0, 1), goes_on=st.booleans())
    def begin_a_save(self, env, texts, node, goes_on):
        there = sorted(self.world.acknowledged, key=str)
        self.world.writer(env, texts, node=node, on=there[-1] if goes_on and there else None)

    @rule(env=_ENVS, texts=_TEXTS, node=st.integers(0, 1))
    def save(self, env, texts, node):
        self.world.run(self.world.writer(env, texts, node=node))

    @rule(env=_ENVS, texts=_TEXTS, span=_SPANS)
    def save_delete_and_wait(self, env, texts, span):
        """What gives collections something to do."""
        before = set(self.world.acknowledged)
        self.world.run(self.world.writer(env, texts))
        for place in set(self.world.acknowledged) - before:
            self.world.run(self.world.deletion(*place))
        self.world.pass_time(span)

    @precondition(room)
    @rule()
    def begin_a_collection(self):
        self.world.collection()

    @rule()
    def collect(self):
        self.world.run(self.world.collection())

    @precondition(lambda self: self.world.live())
    @rule(which=_WHO)
    def delete(self, which):
        live = sorted(self.world.live(), key=str)
        self.world.run(self.world.deletion(*live[which % len(live)]))

    @precondition(lambda self: self.room() and len(self.world.live()) < len(self.world.acknowledged))
    @rule(which=_WHO)
    def begin_to_undelete(self, which):
        dead = sorted(set(self.world.acknowledged) - set(self.world.live()), key=str)
        self.world.restoration(*dead[which % len(dead)])

    @precondition(somebody)
    @rule(who=_WHO, turns=_TURNS)
    def go_on(self, who, turns):
        self.world.step(self.actor(who), turns)

    @precondition(somebody)
    @rule(who=_WHO, place=_PLACES)
    def go_on_until(self, who, place):
        self.world.run_until(self.actor(who), *place)

    @precondition(somebody)
    @rule(who=_WHO)
    def go_on_to_the_end(self, who):
        self.world.run(self.actor(who))

    @precondition(somebody)
    @rule(who=_WHO)
    def kill(self, who):
        self.world.kill(self.actor(who))

    @precondition(lambda self: self.room() and self.somebody())
    @rule(who=_WHO)
    def begin_a_sign_of_life(self, who):
        self.world.renewal(self.actor(who))

    @rule(envs=st.sets(_ENVS))
    def hide(self, envs):
        """From now on, listings leave out environments; or they show all again."""
        self.world.hide(envs)

    @rule(span=_SPANS, asleep=st.sets(_WHO, max_size=3), stopped=st.sets(_WHO, max_size=1))
    def pass_time(self, span, asleep, stopped):
        busy = [actor for actor in self.world.actors if not actor.finished]
        chosen = [[actor for number, actor in enumerate(busy) if number in numbers] for numbers in (asleep, stopped)]
        self.world.pass_time(span, asleep=chosen[0], stopped=chosen[1])


def _search(machine, examples, **more):
    wanted = settings(
        max_examples=examples,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )
    run_state_machine_as_test(machine, settings=wanted)


def test_nothing_is_lost_whatever_the_order():
    _search(Store, EXAMPLES, print_blob=True)


# Orders that lost data elsewhere, or would here: the code survives them, and without one precaution the same order
# loses data. A precaution is taken away by a context manager that puts something worse in its place.


def _without(owner, attribute, worse):
    @contextlib.contextmanager
    def breaking():
        before = getattr(owner, attribute)
        setattr(owner, attribute, worse)
        try:
            yield
        finally:
            setattr(owner, attribute, before)

    return breaking


_no_lease_check = _without(collecting._Collection, "_busy", lambda self, awaited: [])
_no_second_mark = _without(collecting._Collection, "_still_doomed", lambda self, _epoch, all: (all, self._mark()))
_listings_believed = _without(marking.Marker, "_with_known", lambda self, listed: listed)
_hint_trusted = _without(publishing.Writer, "verify", lambda self, packs: None)
_waking_up_as_if_nothing_was = _without(publishing.Writer, "_is_safe", lambda self: True)


@contextlib.contextmanager
def _epoch_read_before_the_lease(context):
    epoch, condemned = epochs.read(context.store)
    lease = publishing.Lease(context.store)
    try:
        yield publishing.Writer(context.store, lease, epoch, condemned)
    finally:
        publishing._release(lease)


_epoch_too_early = _without(publishing, "writing", _epoch_read_before_the_lease)


@pytest.fixture
def world():
    """A store that is prepared."""
    with World() as world:
        _prepare(world)
        yield world


def _packs(world):
    return [key for key in world.objects if key.startswith("packs/")]


def test_collections_do_collect(world):
    world.run(world.collection())
    assert len(_packs(world)) == 1
    world.pass_time(5 * HOUR)
    world.run(world.collection())
    assert _packs(world) == []
    assert [key for key in world.objects if key.startswith(("trees/", "leases/", "clock/"))] == []
    assert [key for key in world.objects if key.startswith("envs/")] == ["envs/lab/a/00000002.json"]
    world.run(world.writer(B, "x"))
    assert world.live() == [(B, 1)]


def _collect_while_listings_hide(world):
    """A version that a collection has seen is a month old when no listing shows its environment any more."""
    world.run(world.writer(B, "yz"))
    for _ in range(2):
        world.run(world.collection())
        world.pass_time(5 * HOUR)
    world.run(world.writer(B, "z"))
    world.pass_time(30 * DAY)
    world.hide({B})
    assert world.hidden == {B}
    for _ in range(4):
        world.run(world.collection())
        world.pass_time(5 * HOUR)


def test_an_environment_that_no_listing_shows_is_not_lost(world):
    _collect_while_listings_hide(world)
    assert world.live() == [(B, 1), (B, 2)]
    assert sum(done.deleted.objects for done in world.collections if done.deleted) == 3


def test_believing_listings_loses_an_environment(world):
    with _listings_believed(), pytest.raises(Lost):
        _collect_while_listings_hide(world)


def _save_while_a_collection_runs(world):
    """A writer decides to reuse the pack; it is condemned; the writer is slow, the second step comes."""
    writer = world.writer(B, "xy")
    assert world.run_until(writer, "write", "trees/")
    world.run(world.collection())
    world.pass_time(5 * HOUR)
    second = world.collection()
    world.run_until(second, "put", "gc/00000001.doomed")
    world.run(writer)
    world.run(second)
    return writer


def test_a_collection_waits_for_writers_that_do_not_know_what_it_condemned(world):
    writer = _save_while_a_collection_runs(world)
    assert writer.failure is None
    assert world.live() == [(B, 1)]
    assert world.collections[-1].writers
    assert world.collections[-1].deleted is None


def test_without_looking_for_leases_data_is_lost(world):
    with _no_lease_check(), pytest.raises(Lost):
        _save_while_a_collection_runs(world)


def _save_between_the_steps(world):
    """A writer reuses the pack before it is condemned, and publishes after that."""
    writer = world.writer(B, "xy")
    assert world.run_until(writer, "write", "trees/")
    world.run(world.collection())
    world.run(writer)
    world.pass_time(5 * HOUR)
    world.run(world.collection())


def test_what_is_needed_again_is_spared(world):
    _save_between_the_steps(world)
    assert world.collections[-1].spared == 1
    assert world.live() == [(B, 1)]


def test_without_a_second_look_data_is_lost(world):
    with _no_second_mark(), pytest.raises(Lost):
        _save_between_the_steps(world)


def _save_that_begins_while_a_collection_begins(world):
    """A writer has done one thing of two, taking the lease and asking what is condemned, when a collection begins."""
    writer = world.writer(B, "xy")
    assert world.run_until(writer, "write", "leases/")
    world.run(world.collection())
    world.run_until(writer, "write", "trees/")
    world.pass_time(5 * HOUR)
    second = world.collection()
    world.run_until(second, "put", "gc/00000001.doomed")
    world.run(writer)
    world.run(second)
    return writer


def test_a_writer_that_takes_its_lease_first_knows_what_is_condemned(world):
    assert _save_that_begins_while_a_collection_begins(world).failure is None
    assert world.live() == [(B, 1)]
    assert world.reused == 0
    assert world.collections[-1].deleted.packs == 1


def test_asking_what_is_condemned_before_taking_the_lease_loses_data(world):
    with _epoch_too_early(), pytest.raises(Lost):
        _save_that_begins_while_a_collection_begins(world)


def _save_on_a_stale_hint(world):
    """As in borg #9748: a collection was interrupted, and the notes on what the store has still name what it deleted."""
    world.run(world.collection())
    world.pass_time(5 * HOUR)
    interrupted = world.collection()
    assert world.run_until(interrupted, "write", "gc/00000001.done")
    world.kill(interrupted)
    world.run(world.collection())
    world.run(world.writer(B, "xy", node=1))


def test_a_stale_hint_costs_a_second_try(world):
    _save_on_a_stale_hint(world)
    assert world.reused == 1
    assert world.live() == [(B, 1)]


def test_trusting_a_stale_hint_loses_data(world):
    with _hint_trusted(), pytest.raises(Lost):
        _save_on_a_stale_hint(world)


def _save_after_a_long_sleep(world, how):
    """As in restic #3126: a laptop sleeps in the middle of a save, and wakes when its data has been collected."""
    writer = world.writer(B, "xy")
    assert world.run_until(writer, "put", "envs/")
    away = {how: [writer]}
    world.pass_time(26 * HOUR, **away)
    world.run(world.collection())
    world.pass_time(5 * HOUR, **away)
    world.run(world.collection())
    world.run(writer)
    return writer


@pytest.mark.parametrize("how", ["asleep", "stopped"])
def test_a_writer_that_wakes_too_late_says_so_and_leaves_nothing_broken(world, how):
    writer = _save_after_a_long_sleep(world, how)
    assert isinstance(writer.failure, LeaseLost)
    assert world.live() == []
    assert "envs/lab/b/00000002.json" in world.objects  # the tombstone of what it had published
    world.run(world.writer(B, "xy"))
    assert world.live() == [(B, 3)]
    world.pass_time(9 * DAY)
    world.run(world.collection())  # the dead version does not stop it
    assert world.collections[-1].condemned.versions == 1


@pytest.mark.parametrize("how", ["asleep", "stopped"])
def test_going_on_after_a_long_sleep_loses_data(world, how):
    with _waking_up_as_if_nothing_was(), pytest.raises(Lost):
        _save_after_a_long_sleep(world, how)


def test_a_collection_that_wakes_up_late_deletes_nothing_new(world):
    """It had made up its mind; another one has finished the work, and the same content was stored again."""
    world.run(world.collection())
    world.pass_time(5 * HOUR)
    sleeper = world.collection()
    assert world.run_until(sleeper, "delete", "trees/")
    world.run(world.collection())
    world.run(world.writer(A, "x"))
    world.pass_time(30 * HOUR, asleep=[sleeper])
    world.run(sleeper)
    assert world.live() == [(A, 3)]


@pytest.mark.parametrize("pages", range(5))
def test_a_collection_that_another_one_overtakes_raises_no_alarm(world, pages):
    """Both go on with the same one; what one of them has deleted already is not lost."""
    world.run(world.collection())
    world.pass_time(5 * HOUR)
    slow = world.collection()
    assert world.run_until(slow, "list", "envs/")
    world.step(slow, pages)
    world.run(world.collection())
    world.run(slow)
    assert slow.failure is None
    assert _packs(world) == []


def test_undeleting_what_is_condemned_is_refused_and_what_is_not_is_spared(world):
    world.run(world.collection())
    late = world.run(world.restoration(A, 1))
    assert isinstance(late.failure, DataCollected)
    assert world.live() == []


def test_undeleting_that_began_before_the_collection_wins(world):
    early = world.restoration(A, 1)
    assert world.run_until(early, "put", "envs/")
    world.run(world.collection())
    world.run(early)
    world.pass_time(5 * HOUR)
    world.run(world.collection())
    assert early.failure is None
    assert world.live() == [(A, 1)]
    assert world.collections[-1].spared == 3


def test_undeleting_that_wakes_too_late_is_taken_back(world):
    late = world.restoration(A, 1)
    assert world.run_until(late, "put", "envs/")
    away = {"asleep": [late]}
    world.pass_time(13 * HOUR, **away)
    world.run(world.collection())
    world.pass_time(5 * HOUR, **away)
    world.run(world.collection())
    assert world.collections[-1].deleted.versions == 1
    world.run(late)
    assert isinstance(late.failure, LeaseLost)
    assert world.live() == []
    assert "envs/lab/a/00000001.json" not in world.objects


def test_the_search_finds_what_a_trusted_hint_loses():
    """The search that finds nothing in the real code does find something where there is something to find."""

    class Broken(Store):
        breaking = staticmethod(_hint_trusted)

    with pytest.raises(Lost):
        _search(Broken, 2000, phases=(Phase.generate,), derandomize=True)
