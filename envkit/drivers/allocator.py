"""Owns how the C library's allocator treats memory that was freed."""

import ctypes

# From malloc.h.
_M_ARENA_MAX = -8
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGEST_MMAP_THRESHOLD = 32 << 20  # more is refused
_KEPT = 64 << 20


def keep_freed_memory() -> None:
    """Have this process use the memory of freed buffers again instead of giving it back to the kernel each time.

    A process that reads much in buffers of some MiB saves a page fault for every 4 KiB of it. All threads share one
    heap, as one of them fills buffers that another one frees. Does nothing where the C library has no such switch.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
