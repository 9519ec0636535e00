"""Owns rows of bits: what of a layer is there, one bit for each chunk or granule."""


class Bits:
    """`count` bits, all 0 at first. One thread at a time may change them; others may look meanwhile."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._bytes = bytearray(-(-count // 8))

    @classmethod
    def from_bytes(cls, data: bytes, count: int) -> "Bits":
        """Return the bits that `to_bytes` gave.

        :raises ValueError: these are not the bytes of so many bits.
        """
        bits = cls(count)
        if len(data) != len(bits._bytes) or (count % 8 and data[-1] >> count % 8):
            raise ValueError(f"{len(data)} bytes are not {count} bits")
        bits._bytes[:] = data
        return bits

    def to_bytes(self) -> bytes:
        return bytes(self._bytes)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> bool:
        if not 0 <= number < self._count:
            raise IndexError(f"bit {number} of {self._count}")
        return bool(self._bytes[number >> 3] >> (number & 7) & 1)

    def add(self, number: int) -> None:
        """Set one bit."""
        if not 0 <= number < self._count:
            raise IndexError(f"bit {number} of {self._count}")
        self._bytes[number >> 3] |= 1 << (number & 7)

    def discard(self, number: int) -> None:
        """Clear one bit."""
        if not 0 <= number < self._count:
            raise IndexError(f"bit {number} of {self._count}")
        self._bytes[number >> 3] &= ~(1 << (number & 7))

    def add_all(self) -> None:
        """Set every bit."""
        for number in range(self._count & ~7, self._count):
            self.add(number)
        self._bytes[: self._count >> 3] = b"\xff" * (self._count >> 3)

    def all_in(self, start: int, stop: int) -> bool:
        """Tell whether every bit `start .. stop-1` is set; True for none."""
        if start < 0 or stop > self._count:
            raise IndexError(f"bits {start} to {stop} of {self._count}")
        if start >= stop:
            return True
        first = start >> 3
        value = int.from_bytes(self._bytes[first : (stop + 7) >> 3], "little") >> (start & 7)
        mask = (1 << (stop - start)) - 1
        return value & mask == mask

    def total(self) -> int:
        """Return how many bits are set."""
        return int.from_bytes(self._bytes, "little").bit_count()
