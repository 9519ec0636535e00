"""Envkit's tests in real machines: Debian 12 and 13 with systemd, AppArmor, control groups v2 and their own kernels.

A machine is emulated where there is no KVM, and then ten to twenty times as slow. It has no network. Images are kept in
ENVKIT_VM_DIR, or below XDG_CACHE_HOME or /var/tmp, until what they are made of changes; a run never writes to them.
"""

import argparse
import datetime
import itertools
import os
import shlex
import signal
import sys
import tempfile
import time

from vm import image as images
from vm import sidebyside, suite
from vm.cutdisk import Disk
from vm.guest import Guest, GuestFailed, say
from vm.moments import in_memory
from vm.network import Hub
from vm.power_campaign import DISK_BYTES, scratch
from vm.releases import RELEASES
from vm.scenarios import SCENARIOS, Stage

_EXAMPLES = """
examples:
  scripts/vm build                        make the images, some minutes each
  scripts/vm test 12 13 --select ci       what depends on kernel, LXC and systemd; side by side
  scripts/vm test 13 tests/integration/test_run.py -k limits
  scripts/vm test 12 --user tests/unit    not as root
  scripts/vm scenario 13 reboot           open sessions and a shutdown
  scripts/vm run 13 -- systemctl status
  scripts/vm shell 12                     a console; Ctrl-A X switches the machine off
"""
_LONGEST = 4 * 3600.0
_ALONE = ("reboot", "user")
"""The scenarios that need nothing beside a guest."""


def main():
    """Do what the command line asks for; return the exit code."""
    options, more = _parser().parse_known_args()
    if more and options.command != "test":
        _parser().error(f"unrecognized arguments: {' '.join(more)}")
    # As an exception it ends the machine on its way.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return options.function(options, more)
    except (images.CannotBuild, GuestFailed, AssertionError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(
        prog="scripts/vm", description=__doc__, epilog=_EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)

    build = commands.add_parser("build", help="make images that are not there or not up to date")
    build.add_argument("release", nargs="*", help="12, 13; both by default")
    build.add_argument("--again", action="store_true", help="in any case, as for newer packages")
    build.set_defaults(function=_build)

    test = commands.add_parser("test", help="run tests in a machine; more words are pytest's")
    test.add_argument("release", nargs="+", help="12, 13, or both, then side by side")
    test.add_argument("--user", action="store_true", help="not as root, but in a login of somebody who may use sudo")
    test.add_argument("--select", choices=[*suite.SELECTIONS], help="a set of tests; everything by default")
    test.add_argument("--results", metavar="DIR", help="where the results go; a new directory by default")
    test.add_argument("--then", metavar="SCENARIO", action="append", choices=_ALONE, help="try it afterwards")
    test.set_defaults(function=_test)

    run = commands.add_parser("run", help="run one command as root in a machine, with the checkout in /srv/envkit")
    run.add_argument("release", choices=[*RELEASES])
    run.add_argument("words", nargs="+", metavar="-- COMMAND")
    run.set_defaults(function=_run)

    scenario = commands.add_parser(
        "scenario", help="try what a test inside cannot: shut the machine down, cut its power"
    )
    scenario.add_argument("release", choices=[*RELEASES])
    scenario.add_argument("name", nargs="*", metavar="NAME", help=f"{', '.join(SCENARIOS)}; all by default")
    scenario.set_defaults(function=_scenario)

    shell = commands.add_parser("shell", help="the console of a machine; the checkout is on /dev/vdb, as tar")
    shell.add_argument("release", choices=[*RELEASES])
    shell.set_defaults(function=_shell)

    for command in (test, run, scenario, shell):
        command.add_argument("--memory", type=int, default=4096, metavar="MIB")
        command.add_argument("--processors", type=int, default=2, metavar="N")
    return parser


def _build(options, _):
    _refuse_unknown("release", options.release, RELEASES)
    for name in options.release or RELEASES:
        print(images.image(RELEASES[name], say=say, again=options.again).directory)  # noqa: T201
    return 0


def _test(options, words):
    # Words of pytest's that look like releases to argparse.
    found = [*itertools.takewhile(lambda word: word in RELEASES, options.release)]
    words = [*options.release[len(found) :], *words]
    if not found:
        _refuse_unknown("release", options.release, RELEASES)
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    where = os.path.abspath(options.results or f"/var/tmp/envkit-vm-results/{stamp}-{'-'.join(found)}")
    if options.select:
        for line in suite.WHY[options.select]:
            say(f"{options.select}: {line}")
    words = [*suite.SELECTIONS.get(options.select, []), *words]
    words = words if any(word.startswith("tests") for word in words) else ["tests", *words]
    say(f"pytest {shlex.join(words)}{' as ' + images.USER if options.user else ''}")
    if len(found) == 1:
        return _test_in(options, found[0], words, where)
    for name in found:
        images.image(RELEASES[name], say=say)
    return sidebyside.run({name: _command(options, name, f"{where}/{name}", words) for name in found})


def _command(options, release, where, words):
    """Return the command line that does the part of one release."""
    more = ["--user"] if options.user else []
    more += [f"--memory={options.memory}", f"--processors={options.processors}", f"--results={where}"]
    more += [f"--then={name}" for name in _afterwards(options)]
    return [sys.executable, __file__, "test", release, *more, *words]


def _afterwards(options):
    return options.then or suite.AFTERWARDS.get(options.select, ())


def _test_in(options, release, words, where):
    os.makedirs(where, exist_ok=True)
    with open(f"{where}/pytest.log", "wb") as log, _Machine(options, release, where) as guest:

        def output(data):
            log.write(data)
            log.flush()
            _copy(data)

        started = time.monotonic()
        code = suite.test(guest, words, user=options.user, timeout=_LONGEST, output=output)
        say(f"tested for {time.monotonic() - started:.0f} s")
        suite.results(guest, where)
        for name in _afterwards(options):
            passes = _passes(name, guest, None)
            code = code or int(not passes)
        guest.power_off()
    say(f"exit code {code}; results in {where}")
    return code


def _run(options, _):
    with tempfile.TemporaryDirectory(prefix="envkit-vm-log-") as log, _Machine(options, options.release, log) as guest:
        outcome = guest.run(*options.words, cwd=suite.INSIDE, timeout=_LONGEST, output=_copy)
    return outcome.code


def _scenario(options, _):
    _refuse_unknown("scenario", options.name, SCENARIOS)
    failed = False
    for name in options.name or SCENARIOS:
        with (
            tempfile.TemporaryDirectory(prefix="envkit-vm-log-", dir=scratch()) as log,
            in_memory(f"{log}/memory") as memory,
            Disk(memory, DISK_BYTES) as disk,
            Hub(memory) as hub,
            _Machine(options, options.release, log, arguments=[*disk.arguments(), *hub.arguments("head")]) as guest,
        ):

            def another(name, *, log=log, hub=hub):
                return _Machine(options, options.release, log, name=name, arguments=hub.arguments(name))

            failed |= not _passes(name, guest, Stage(disk, hub, another))
    return 1 if failed else 0


def _passes(name, guest, stage):
    """Try a scenario; say how it went and how long it took."""
    started = time.monotonic()
    try:
        told = SCENARIOS[name](guest, stage)
    except AssertionError as error:
        say(f"{name}: FAILED: {error}")
        return False
    say(f"{name}: ok after {time.monotonic() - started:.0f} s{': ' + told if told else ''}")
    return True


def _refuse_unknown(what, names, known):
    for name in names:
        if name not in known:
            _parser().error(f"there is no {what} {name!r}: {', '.join(known)} are known")


def _shell(options, _):
    image = images.image(RELEASES[options.release], say=say)
    with tempfile.TemporaryDirectory(prefix="envkit-vm-log-") as log:
        suite.checkout(f"{log}/checkout.tar")
        shape = {"memory": options.memory, "processors": options.processors}
        with Guest(image, log=log, disks=[f"{log}/checkout.tar"], **shape) as guest:
            return guest.interact()


class _Machine:
    """A guest that has booted, with the checkout in it."""

    def __init__(self, options, release, log, *, name="", arguments=()):
        """:param name: of a further one, which has a directory of its own for its logs."""
        self._options = options
        self._release = release
        self._log = os.path.join(log, name)
        self._arguments = arguments

    def __enter__(self):
        options = self._options
        image = images.image(RELEASES[self._release], say=say)
        os.makedirs(self._log, exist_ok=True)
        tar = f"{self._log}/checkout.tar"
        suite.checkout(tar)
        shape = {"memory": options.memory, "processors": options.processors}
        self._guest = Guest(image, log=self._log, disks=[tar], arguments=self._arguments, **shape)
        try:
            started = time.monotonic()
            self._guest.boot()
            say(f"booted in {time.monotonic() - started:.0f} s, systemd says {self._guest.state!r}")
            suite.prepare(self._guest)
            say(f"ready after {time.monotonic() - started:.0f} s")
        except BaseException:
            self.__exit__()
            raise
        return self._guest

    def __exit__(self, *_):
        self._guest.__exit__()
        os.unlink(f"{self._log}/checkout.tar")


def _copy(data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
