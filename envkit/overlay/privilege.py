"""Owns the question whether this process can see all of an upper directory.

Overlayfs marks opaque directories with `trusted.*` attributes. Without CAP_SYS_ADMIN in the host's user namespace
the kernel leaves them out of every answer, without an error, and a scan would bring deleted files back.
"""

from envkit.overlay.errors import MissingPrivilege

# Bits of <linux/capability.h>, and what a scan needs them for: unreadable files, O_NOATIME, trusted.* attributes.
_NEEDED = {1: "CAP_DAC_OVERRIDE", 3: "CAP_FOWNER", 21: "CAP_SYS_ADMIN"}
_INITIAL_UID_MAP = ["0", "0", "4294967295"]


def require_privilege() -> None:
    """Check that this process sees every attribute and can read every file.

    :raises MissingPrivilege: it does not, naming all that is missing.
    """
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        lines = status.read()
    with open("/proc/self/uid_map", encoding="ascii") as uid_map:
        missing = missing_privileges(lines, uid_map.read())
    if missing:
        raise MissingPrivilege(missing)


def missing_privileges(status: str, uid_map: str) -> tuple[str, ...]:
    """Return what a process lacks, from the texts of its /proc/PID/status and uid_map."""
    effective = 0
    for line in status.splitlines():
        field, _, value = line.partition(":")
        if field == "CapEff":
            effective = int(value, 16)
    missing = [name for bit, name in _NEEDED.items() if not effective >> bit & 1]
    if uid_map.split() != _INITIAL_UID_MAP:
        missing.append("the host's user namespace")
    return tuple(missing)
