"""Owns many power cuts: of this machine's own kernel, and of a guest, for each of whose cuts there are moments before it.

At the end comes the negative control: an envkit that does not wait for the disk breaks promises, or the cuts were too kind.
"""

import contextlib
import os
import random
import tempfile

from torture_support import Tally, Violation
from vm import image as images
from vm import suite
from vm.cutdisk import Disk
from vm.guest import Guest
from vm.moments import copy, in_memory
from vm.power import ENV, PowerTrial
from vm.power_here import PowerHere
from vm.power_judge import judge, judge_store
from vm.releases import RELEASES

DISK_BYTES = 8 << 30
"""What a guest sees; `envkit doctor` wants some of it to be free."""

_RELEASE = "13"
_EACH = 50
"""Moments to a real cut, which takes a boot."""

_SAVES_EACH = 8
"""Moments to a save: it has about 60, and they should not all be of the same few."""

_CONTROL = 6


def power_faults(directory, options, *, say):
    """Yield (name, tally) of cuts of this machine's own kernel; `options` are those of `scripts/torture`."""
    rng = random.Random(options.seed)
    count = options.count * (_EACH if options.all else 1)
    with PowerHere(f"{directory}/power") as here:
        judgement = Judgement(here.directory, seed=options.seed)
        while count > 0 and not judgement.moments.violations:
            many = min(_EACH, count)
            count -= many
            run = here.run(saves=2 + many // _SAVES_EACH)
            judgement.judge(run.moments(many, here.moment, rng))
            say(judgement.told())
        judgement.judge_careless(here.careless_run(saves=2).moments(_CONTROL, here.moment, rng))
    yield from judgement.tallies()


def guest_faults(directory, options, *, say):
    """Yield (name, tally) of cuts of a guest and of moments before; `options` are those of `scripts/torture`.

    :raises CannotBuild, GuestFailed: there is no guest to be had.
    """
    place = f"{directory}/guest"
    image = images.image(RELEASES[_RELEASE], say=say)
    with in_memory(place), Disk(place, DISK_BYTES) as disk:
        suite.checkout(f"{place}/checkout.tar")
        with Guest(image, log=place, disks=[f"{place}/checkout.tar"], arguments=disk.arguments()) as guest:
            guest.boot()
            suite.prepare(guest)
            campaign = PowerCampaign(guest, disk, seed=options.seed)
            count = options.count * (_EACH if options.all else 1)
            while count > 0 and not campaign.violations():
                campaign.cut(min(_EACH, count - 1))
                count -= 1 + min(_EACH, count - 1)
                say(campaign.told())
            campaign.control()
    yield from campaign.tallies()


class Judgement:
    """What came of moments: tallies of those at which promises have to be kept, and of those of the negative control."""

    def __init__(self, place, *, seed):
        """:param place: a directory with space for mounts."""
        self.moments, self.careless = Tally(), Tally()
        self.broken = 0
        """At how many moments of the negative control promises were broken."""
        self.lost = 0
        """How many files the moments took that were not flushed."""
        self._seed = seed
        self._mounted = f"{place}/mounted"
        os.makedirs(self._mounted)

    def judge(self, moments):
        """Judge moments of a run."""
        for moment in moments:
            self.moments.faults += 1
            self.moments.acked += len(moment.promises.saved)
            with self.noted(self.moments, moment.name, disk=moment.path):
                self.lost += judge(moment, self._mounted, session=ENV)

    def judge_careless(self, moments):
        """Judge moments of an envkit that does not wait for the disk, and see promises broken."""
        for moment in moments:
            self.careless.faults += 1
            try:
                judge_store(moment, self._mounted)
            except AssertionError:
                self.broken += 1
        if not self.broken:
            self._fail("the judge saw nothing of an envkit that never waited for the disk")
        if not self.lost:
            self._fail("nothing was lost that was not flushed: the cuts did not hurt")

    def told(self):
        """Return what happened, as a line."""
        line = f"{self.moments.faults} moments judged, at which {self.lost} files were lost that were not flushed"
        return f"{line}; {self._control()}" if self.careless.faults else line

    def tallies(self):
        """Return (name, tally) of each kind of fault."""
        return [("moment", self.moments), (self._control(), self.careless)]

    def violations(self):
        """Return every promise that was broken, each a `Violation` that says where."""
        return [violation for _, tally in self.tallies() for violation in tally.violations]

    @contextlib.contextmanager
    def noted(self, tally, fault, *, disk=None):
        """A context in which a broken promise goes into a tally; the disk on which it was is kept."""
        try:
            yield
        except AssertionError as error:
            violation = Violation("lost", str(error))
            violation.fault = f"{fault}, seed {self._seed}"
            if disk is not None:
                descriptor, kept = tempfile.mkstemp(prefix="envkit-power-cut-", dir=scratch())
                os.close(descriptor)
                copy(disk, kept)
                violation.fault += f"; the disk is kept as {kept}"
            tally.violations.append(violation)

    def _control(self):
        return f"without syncs {self.broken} of {self.careless.faults} moments broke promises"

    def _fail(self, text):
        violation = Violation("unclear", text)
        violation.fault = f"seed {self._seed}"
        self.careless.violations.append(violation)


class PowerCampaign(Judgement):
    """Cuts of a guest with a `Disk`, moments before them, and what came of both."""

    def __init__(self, guest, disk, *, seed):
        super().__init__(disk.directory, seed=seed)
        self._cuts = Tally()
        self._moment = f"{disk.directory}/moment"
        self._trial = PowerTrial(guest, disk, seed=seed)
        self._trial.begin()

    def cut(self, moments):
        """Cut the power once, judge so many moments before, boot and check what is there."""
        trial = self._trial
        trial.cut(saves=2 + moments // _SAVES_EACH)
        self.judge(trial.moments(moments, self._moment))
        self._cuts.faults += 1
        with self.noted(self._cuts, "a cut"):
            trial.check()
        self._cuts.acked = trial.saves

    def control(self):
        """Cut the power of an envkit that does not wait for the disk."""
        self._trial.careless_cut()
        self.judge_careless(self._trial.moments(_CONTROL, self._moment))

    def told(self):
        """Return what happened, as a line."""
        return f"{self._trial.told()}; {super().told()}"

    def tallies(self):
        """Return (name, tally) of each kind of fault."""
        return [("cut", self._cuts), *super().tallies()]


def scratch():
    """Return where there is space for what a guest writes."""
    return os.environ.get("ENVKIT_TEST_DIR", "/var/tmp")
