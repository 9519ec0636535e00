"""Break envkit on purpose, many times over: kills at crash points and system calls, errors of system calls, HTTP faults,
and faults of the image server.

Each line of the result is one class of faults. The exit code is 1 if a promise was broken; what broke it is printed
with the seed that shows it again. Nothing outside a directory of its own below ENVKIT_TEST_DIR is touched.
"""

import argparse
import os
import random
import sys
import tempfile
import time

from fault_proxy import FAULTS, FaultProxy
from faults import strace
from faults.bucket_world import OPERATIONS, Bucket, BucketWorld, requests, rules, tried
from faults.campaign import Campaign, told
from faults.image_campaign import image_faults
from faults.scenarios import AREAS, OFTEN, points
from s3_support import running_server
from torture_support import Tally, Zygote
from vm.power_campaign import guest_faults, power_faults

_ALL_SEEDS = 20
_ALL_PLACES = 10


def main():
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/torture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    areas = [*AREAS, "http", "images", "power"]
    parser.add_argument(
        "--area",
        choices=[*areas, "guest"],
        action="append",
        help="what is broken; everything by default, but for guest, which needs what `scripts/provision --vm` installs",
    )
    parser.add_argument("--operation", choices=OPERATIONS, action="append", help="of the area http; all by default")
    parser.add_argument("--fault", choices=FAULTS, action="append", help="of the area http; all by default")
    parser.add_argument("--kind", choices=("crash", "kill", "error"), action="append", help="of faults on this machine")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--count", type=int, default=6, help="faults in each class")
    parser.add_argument(
        "--all", action="store_true", help="every point 20 times, every call of every kind, all of HTTP"
    )
    options = parser.parse_args()
    say(f"seed {options.seed}")
    found = {}
    where = os.environ.get("ENVKIT_TEST_DIR", "/var/tmp")
    with tempfile.TemporaryDirectory(prefix="envkit-torture-", dir=where) as directory:
        os.chmod(directory, 0o755)
        with Zygote(f"{directory}/zygote") as zygote:
            for area in options.area or areas:
                run = {"http": http_faults, "images": images, "power": power, "guest": guest}.get(area, local_faults)
                for name, tally in run(area, directory, zygote, options):
                    say(f"{area} {name}: {tally}")
                    for violation in tally.violations:
                        found.setdefault(told(violation), []).append(violation)
    for text, violations in found.items():
        say(f"\n{len(violations)} x {text}\n    first: {violations[0].fault}\n    {str(violations[0])[-1500:]}")
    return 1 if found else 0


def say(text):
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201


def local_faults(area, directory, zygote, options):
    """Yield (name, tally) of each class of faults of a command on this machine."""
    campaign = Campaign(directory, zygote, AREAS[area], seed=options.seed)
    for name, faults in classes(area, campaign, options):
        tally = Tally()
        for fault in faults:
            campaign.crash(fault, tally) if isinstance(fault, str) else campaign.strace(fault, tally)
        yield name, tally


def classes(area, campaign, options):
    """Yield (name, faults) of each class of faults."""
    rng = random.Random(options.seed)
    kinds = options.kind or ("crash", "kill", "error")
    if "crash" in kinds:
        for point in points(area):
            many = _ALL_SEEDS if options.all else options.count
            yield point, [f"{point}@{1 + number % 4}" if point in OFTEN else point for number in range(many)]
    if not {"kill", "error"} & set(kinds):
        return
    for call, most in sorted(campaign.counts().items()):
        for effect in strace.effects(call):
            if ("kill" if effect == strace.KILL else "error") in kinds:
                numbers = range(1, most + 1)
                if not options.all and most > options.count:
                    numbers = sorted(rng.sample(numbers, options.count))
                yield f"{call} {effect}", [strace.Fault(call, number, effect) for number in numbers]


def images(area, directory, zygote, options):
    """Yield (name, tally) of each class of faults of the image server."""
    yield from image_faults(directory, options)


def power(area, directory, zygote, options):
    """Yield (name, tally) of power cuts of a disk of this machine."""
    yield from power_faults(directory, options, say=say)


def guest(area, directory, zygote, options):
    """Yield (name, tally) of power cuts of a guest."""
    yield from guest_faults(directory, options, say=say)


def http_faults(area, directory, zygote, options):
    """Yield (name, tally) of each kind of fault between envkit and a server of S3."""
    rng = random.Random(options.seed)
    with running_server() as server:
        host, _, port = server.endpoint.removeprefix("http://").partition(":")
        with FaultProxy(host, int(port), seed=options.seed) as proxy:
            bucket, made, used = None, {}, 0
            operations = options.operation or OPERATIONS
            for fault in options.fault or FAULTS:
                tally = Tally()
                for operation in operations:
                    for _ in range(_ALL_PLACES if options.all else max(1, options.count // len(operations))):
                        if bucket is None or used > 60:
                            world = BucketWorld(f"{directory}/{area}", zygote, server, proxy, seed=rng.randrange(10**9))
                            world.clear()
                            bucket, used = Bucket(world.begin()), 0
                            made = {operation: requests(bucket, operation) for operation in operations}
                        used += 1
                        if not tried(bucket, operation, rules(fault, made[operation], rng), tally):
                            bucket = None
                yield fault, tally


if __name__ == "__main__":
    sys.exit(main())
