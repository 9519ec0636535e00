"""The allocator: what a process frees it uses again, without the kernel's help."""

import subprocess
import sys

_PROGRAM = """
import resource
from envkit.drivers.allocator import keep_freed_memory
if {kept}:
    keep_freed_memory()
bytes([1]) * (16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    bytes([1]) * (16 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, kept):
    """Return the page faults of a process that fills 16 MiB twenty times."""
    program = [sys.executable, "-c", _PROGRAM.format(kept=kept)]
    return int(subprocess.run(program, capture_output=True, text=True, check=True).stdout)


def test_freed_memory_is_used_again_without_page_faults():
    assert faults(kept=True) * 20 < faults(kept=False)
