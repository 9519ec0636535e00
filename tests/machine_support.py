"""Small ELF files of given machine code: they cannot run, but say what they would run."""

import struct

PLAIN = b"\x48\x01\xc8\x48\x29\xd0"
"""add rax, rcx; sub rax, rdx."""
CODE = {
    "avx2": b"\xc5\xfd\xfe\xc1",  # vpaddd ymm0, ymm0, ymm1
    "fma": b"\xc4\xe2\xf5\xb8\xc2",  # vfmadd231pd ymm0, ymm1, ymm2
    "avx512f": b"\x62\xf1\xfd\x48\x58\xc1",  # vaddpd zmm0, zmm0, zmm1
    "avx512_fp16": b"\x62\xf5\x7c\x48\x58\xc1",  # vaddph zmm0, zmm0, zmm1
    "amx_tile": b"\xc4\xe2\x7b\x49\xc0",  # tilezero tmm0
    "sha_ni": b"\x0f\x38\xc8\xc1",  # sha1nexte xmm0, xmm1
}
"""An instruction that needs a flag of /proc/cpuinfo."""


def program(code, *, executable=True, machine=62):
    """Return an ELF file for x86-64, or another machine, with one segment of code."""
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, machine, 1, 0x401000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
    flags = 5 if executable else 4
    segment = struct.pack("<IIQQQQQQ", 1, flags, 120, 0x401000, 0x401000, len(code), len(code), 4096)
    return header + segment + code
