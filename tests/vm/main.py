"""Envkit's tests in real machines: Debian 12 and 13 with systemd, AppArmor, control groups v2 and their own kernels.

A machine is emulated where there is no KVM, and then ten to twenty times as slow. It has no network. Images are kept in
ENVKIT_VM_DIR, or below XDG_CACHE_HOME or /var/tmp, until what they are made of changes; a run never writes to them.
"""

import argparse
import datetime
import os
import shlex
import signal
import sys
import tempfile
import time

from vm import image as images
from vm import suite
from vm.cutdisk import Disk
from vm.guest import Guest, GuestFailed
from vm.power_campaign import DISK_BYTES
from vm.releases import RELEASES
from vm.scenarios import SCENARIOS

_EXAMPLES = """
examples:
  scripts/vm build                        make the images, some minutes each
  scripts/vm test 12 --select ci          what depends on kernel, LXC and systemd
  scripts/vm test 13 tests/integration/test_run.py -k limits
  scripts/vm test 12 --user tests/unit    not as root
  scripts/vm scenario 13 reboot           open sessions and a shutdown
  scripts/vm run 13 -- systemctl status
  scripts/vm shell 12                     a console; Ctrl-A X switches the machine off
"""
_LONGEST = 4 * 3600.0


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
    test.add_argument("release", choices=[*RELEASES])
    test.add_argument("--user", action="store_true", help="not as root, but in a login of somebody who may use sudo")
    test.add_argument("--select", choices=[*suite.SELECTIONS], help="a set of tests; everything by default")
    test.add_argument("--results", metavar="DIR", help="where the results go; a new directory by default")
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
        print(images.image(RELEASES[name], say=_say, again=options.again).directory)  # noqa: T201
    return 0


def _test(options, words):
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%d-%H%M%S")
    where = os.path.abspath(options.results or f"/var/tmp/envkit-vm-results/{stamp}-{options.release}")
    os.makedirs(where, exist_ok=True)
    words = [*suite.SELECTIONS.get(options.select, []), *words]
    paths = [] if any(word.startswith("tests") for word in words) else ["tests"]
    words = [*paths, *words]
    with open(f"{where}/pytest.log", "wb") as log, _Machine(options, where) as guest:

        def output(data):
            log.write(data)
            log.flush()
            sys.stdout.buffer.write(data)
            sys.stdout.flush()

        if options.select:
            _say(f"{options.select}: {suite.WHY[options.select]}")
        _say(f"pytest {shlex.join(words)}{' as ' + images.USER if options.user else ''}")
        started = time.monotonic()
        code = suite.test(guest, words, user=options.user, timeout=_LONGEST, output=output)
        _say(f"tested for {time.monotonic() - started:.0f} s")
        suite.results(guest, where)
        guest.power_off()
    _say(f"exit code {code}; results in {where}")
    return code


def _run(options, _):
    with tempfile.TemporaryDirectory(prefix="envkit-vm-log-") as log, _Machine(options, log) as guest:
        outcome = guest.run(*options.words, cwd=suite.INSIDE, timeout=_LONGEST, output=_copy)
    return outcome.code


def _scenario(options, _):
    _refuse_unknown("scenario", options.name, SCENARIOS)
    failed = False
    for name in options.name or SCENARIOS:
        with (
            tempfile.TemporaryDirectory(prefix="envkit-vm-log-", dir=_scratch()) as log,
            Disk(log, DISK_BYTES) as disk,
            _Machine(options, log, arguments=disk.arguments()) as guest,
        ):
            try:
                told = SCENARIOS[name](guest, disk)
                _say(f"{name}: ok{': ' + told if told else ''}")
            except AssertionError as error:
                failed = True
                _say(f"{name}: FAILED: {error}")
    return 1 if failed else 0


def _refuse_unknown(what, names, known):
    for name in names:
        if name not in known:
            _parser().error(f"there is no {what} {name!r}: {', '.join(known)} are known")


def _shell(options, _):
    image = images.image(RELEASES[options.release], say=_say)
    with tempfile.TemporaryDirectory(prefix="envkit-vm-log-") as log:
        suite.checkout(f"{log}/checkout.tar")
        shape = {"memory": options.memory, "processors": options.processors}
        with Guest(image, log=log, disks=[f"{log}/checkout.tar"], **shape) as guest:
            return guest.interact()


class _Machine:
    """A guest that has booted, with the checkout in it."""

    def __init__(self, options, log, *, arguments=()):
        self._options = options
        self._log = log
        self._arguments = arguments

    def __enter__(self):
        options = self._options
        image = images.image(RELEASES[options.release], say=_say)
        tar = f"{self._log}/checkout.tar"
        suite.checkout(tar)
        shape = {"memory": options.memory, "processors": options.processors}
        self._guest = Guest(image, log=self._log, disks=[tar], arguments=self._arguments, **shape)
        try:
            started = time.monotonic()
            self._guest.boot()
            _say(f"booted in {time.monotonic() - started:.0f} s, systemd says {self._guest.state!r}")
            suite.prepare(self._guest)
            _say(f"ready after {time.monotonic() - started:.0f} s")
        except BaseException:
            self.__exit__()
            raise
        return self._guest

    def __exit__(self, *_):
        self._guest.__exit__()
        os.unlink(f"{self._log}/checkout.tar")


def _scratch():
    """Return where there is space for what a guest writes."""
    return os.environ.get("ENVKIT_TEST_DIR", "/var/tmp")


def _say(line):
    print(f"vm: {line}", file=sys.stderr, flush=True)  # noqa: T201


def _copy(data):
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
