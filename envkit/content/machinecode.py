"""Owns what can be told of a program from its machine code: for which CPU it was compiled.

A compiler that was told `-march=native` writes instructions that other CPUs do not have, and nothing in the file says
so. So the code is disassembled, a bounded amount of it, and the extensions counted that its instructions belong to.
Everything here was written by somebody else; what is no ELF file for this architecture gives nothing.
"""

import re
import struct
from collections import Counter
from collections.abc import Iterator

MAGIC = b"\x7fELF"
MAX_PROGRAM = 1 << 30
_X86_64 = 62
_LOAD = 1
_EXECUTABLE = 1
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_MAX_SEGMENTS = 64
_WINDOW = 8 << 10
_WINDOWS = 256
_CANDIDATES = 128
# Data between functions can look like a few instructions of anything.
_LEAST = 6
# The first bytes of an instruction with an EVEX prefix; many other bytes look the same.
_EVEX = re.compile(rb"\x62[^\x62][" + b"".join(b"\\x%02x" % byte for byte in range(256) if byte & 4) + b"]")

_FLAGS = {
    "SSE3": "pni",
    "SSSE3": "ssse3",
    "SSE4_1": "sse4_1",
    "SSE4_2": "sse4_2",
    "POPCNT": "popcnt",
    "MOVBE": "movbe",
    "AES": "aes",
    "PCLMULQDQ": "pclmulqdq",
    "SHA": "sha_ni",
    "AVX": "avx",
    "F16C": "f16c",
    "FMA": "fma",
    "BMI1": "bmi1",
    "BMI2": "bmi2",
    "LZCNT": "abm",
    "ADX": "adx",
    "AVX2": "avx2",
    "VAES": "vaes",
    "VPCLMULQDQ": "vpclmulqdq",
    "GFNI": "gfni",
    "AVX_VNNI": "avx_vnni",
    "AVX512F": "avx512f",
    "AVX512CD": "avx512cd",
    "AVX512BW": "avx512bw",
    "AVX512DQ": "avx512dq",
    "AVX512VL": "avx512vl",
    "AVX512_IFMA": "avx512ifma",
    "AVX512_VBMI": "avx512vbmi",
    "AVX512_VBMI2": "avx512_vbmi2",
    "AVX512_VNNI": "avx512_vnni",
    "AVX512_BITALG": "avx512_bitalg",
    "AVX512_VPOPCNTDQ": "avx512_vpopcntdq",
    "AVX512_BF16": "avx512_bf16",
    "AVX512_FP16": "avx512_fp16",
    "AMX_TILE": "amx_tile",
    "AMX_INT8": "amx_int8",
    "AMX_BF16": "amx_bf16",
}
"""Flags in /proc/cpuinfo, by the names that the disassembler has for the extensions."""
KNOWN = frozenset(_FLAGS.values())
"""Flags that a version may need."""


def cpu_flags(program: bytes) -> frozenset[str]:
    """Return the CPU flags of instructions that an x86-64 ELF file has a noteworthy number of.

    Large programs are sampled: 2 MiB of code in 256 places, and where something looks like AVX-512.
    """
    counts: Counter[str] = Counter()
    for start, length in _code(program):
        code = memoryview(program)[start : start + length]
        for window in _windows(code):
            _count(bytes(window), counts)
    return frozenset(flag for flag, count in counts.items() if count >= _LEAST)


def _code(program: bytes) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) of the executable segments."""
    if len(program) < _HEADER.size or program[:4] != MAGIC or program[4:6] != b"\x02\x01":
        return
    _, _, machine, _, _, table, _, _, _, entry_size, entries, _, _, _ = _HEADER.unpack_from(program)
    if machine != _X86_64 or entry_size < _SEGMENT.size:
        return
    for number in range(min(entries, _MAX_SEGMENTS)):
        place = table + number * entry_size
        if place + _SEGMENT.size > len(program):
            return
        kind, flags, offset, _, _, size, _, _ = _SEGMENT.unpack_from(program, place)
        if kind == _LOAD and flags & _EXECUTABLE and offset < len(program):
            yield offset, min(size, len(program) - offset)


def _windows(code: memoryview) -> Iterator[memoryview]:
    """Yield parts of code that are looked at: all of it, or some of it."""
    if len(code) <= _WINDOW * _WINDOWS:
        yield code
        return
    step = len(code) // _WINDOWS
    for number in range(_WINDOWS):
        yield code[number * step : number * step + _WINDOW]
    for number, match in enumerate(_EVEX.finditer(code)):
        if number == _CANDIDATES * 64:
            return
        if number % 64 == 0:
            # From a little before: a disassembler finds its way after a few instructions, wherever it begins.
            yield code[max(0, match.start() - 64) : match.start() + 512]


def _count(code: bytes, counts: "Counter[str]") -> None:
    import iced_x86  # late: most saves have no such program

    known = {getattr(iced_x86.CpuidFeature, name): flag for name, flag in _FLAGS.items()}
    decoder = iced_x86.Decoder(64, code)
    instruction = iced_x86.Instruction()
    while decoder.can_decode:
        decoder.decode_out(instruction)
        for feature in instruction.cpuid_features():
            flag = known.get(feature)
            if flag is not None:
                counts[flag] += 1
