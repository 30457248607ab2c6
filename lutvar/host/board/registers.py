# SPDX-License-Identifier: Apache-2.0
"""Mapped registers by byte offset: aligned 32-bit accesses and nothing else."""

from __future__ import annotations

from lutvar.host.errors import BadInput

from .files import Words


class Registers:
    """Registers in mapped words.

    Args:
        words: the mapping. size: bytes of it.
    """

    def __init__(self, words: Words, size: int) -> None:
        self._words, self._size = words, size

    def read(self, offset: int) -> int:
        """Read the register at a byte offset. Raises BadInput outside, or unaligned."""
        return self._words[self._index(offset)]

    def write(self, offset: int, value: int) -> None:
        """Write a register. Raises BadInput outside, unaligned, or for more than 32 bits."""
        if not 0 <= value < 1 << 32:
            raise BadInput(f"0x{value:X} for register offset 0x{offset:03X}; it has 32 bits")
        self._words[self._index(offset)] = value

    def _index(self, offset: int) -> int:
        if offset % 4 or not 0 <= offset <= self._size - 4:
            raise BadInput(
                f"register offset 0x{offset:X}; offsets are multiples of 4 under 0x{self._size:X}"
            )
        return offset // 4
