"""Owns whether this machine can run a version: the architecture it was built on, the instructions it was built with."""

from envkit.drivers import cpu
from envkit.errors import Unavailable
from envkit.model.version import Version


def check_fits(version: Version) -> None:
    """Check that this machine can run a version.

    :raises Unavailable: it would end with an illegal instruction, or could not begin; says what is missing.
    """
    here = cpu.architecture()
    if version.arch and version.arch != here:
        raise Unavailable(
            f"{version} was built on {version.arch}, this machine is {here}",
            resolution="run it on a machine of its kind",
        )
    if not version.needs.cpu:
        return
    lacking = version.needs.lacking(cpu.flags())
    if lacking:
        raise Unavailable(
            f"{version} needs a CPU with {', '.join(lacking)}, which this machine's does not have;"
            f" {version.needs.cpu_file} was compiled for one",
            resolution="run it elsewhere, or compile it without -march=native and save it again",
        )
