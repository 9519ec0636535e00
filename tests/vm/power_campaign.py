"""Owns many power cuts: for each real one, many moments before it at which the power might have gone as well.

The guest is real and its kernel Debian's. What a cut would have left at a moment before is mounted on this machine, whose
kernel replays the journal, and is judged by the second reader.
"""

import contextlib
import os
import random

from torture_support import Tally, Violation
from vm import image as images
from vm import suite
from vm.cutdisk import Disk
from vm.guest import Guest
from vm.power import PowerTrial, check_snapshot
from vm.releases import RELEASES

DISK_BYTES = 8 << 30
"""What a guest sees; `envkit doctor` wants some of it to be free."""
_RELEASE = "13"
_MANY = 20


def power_faults(directory, options, *, say):
    """Yield (name, tally) of cuts of the machine and of moments before; `options` are those of `scripts/torture`.

    :raises CannotBuild, GuestFailed: there is no guest to be had.
    """
    rng = random.Random(options.seed)
    place = f"{directory}/power"
    os.makedirs(f"{place}/mounted")
    cuts, moments = Tally(), Tally()
    image = images.image(RELEASES[_RELEASE], say=say)
    suite.checkout(f"{place}/checkout.tar")
    left = _MANY * options.count if options.all else options.count
    with (
        Disk(place, DISK_BYTES) as disk,
        Guest(image, log=place, disks=[f"{place}/checkout.tar"], arguments=disk.arguments()) as guest,
    ):
        guest.boot()
        suite.prepare(guest)
        trial = PowerTrial(guest, disk, seed=rng.randrange(1 << 32))
        trial.begin()
        while left > 0 and not cuts.violations:
            paths = [f"{place}/{number}" for number in range(min(_MANY, left))]
            left -= len(paths)
            cuts.faults += 1
            for snapshot in trial.cut(snapshots=paths):
                moments.faults += 1
                moments.acked += len(snapshot.promises.saved)
                with _noted(moments, f"{snapshot.path}, seed {options.seed}"):
                    check_snapshot(snapshot, f"{place}/mounted")
                os.unlink(snapshot.path)
            with _noted(cuts, f"a cut, seed {options.seed}"):
                trial.check()
        say(trial.told())
    cuts.acked = trial.saves
    if not trial.lost:
        cuts.violations.append(
            _violation("unclear", "nothing was lost that was not flushed: the cuts did not hurt", "all")
        )
    yield "cut", cuts
    yield "moment before", moments


@contextlib.contextmanager
def _noted(tally, fault):
    """A context in which a broken promise goes into a tally."""
    try:
        yield
    except AssertionError as error:
        tally.violations.append(_violation("lost", str(error), fault))


def _violation(kind, text, fault):
    violation = Violation(kind, text)
    violation.fault = fault
    return violation
