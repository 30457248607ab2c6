# SPDX-License-Identifier: Apache-2.0
"""Which memory of a VCK190 an address lies in, and places in a buffer that tell addresses apart."""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.isa import ALIGN

PAGE = 4096
_GIB = 1 << 30
#: (name, first address, bytes), as AMD PG313 and AM011 give the windows of the NoC's memory
#: controllers and the board's preset fills them: an 8 GiB DIMM and two LPDDR4 controllers of 4 GiB.
BANKS = (
    ("DDR4, low", 0x0, 2 * _GIB),
    ("DDR4, high", 0x8_0000_0000, 6 * _GIB),
    ("LPDDR4 controller 0", 0x500_0000_0000, 4 * _GIB),
    ("LPDDR4 controller 1", 0x600_0000_0000, 4 * _GIB),
)


@dataclass(frozen=True)
class Part:
    """The part of a buffer that lies in one bank: offsets in the buffer."""

    bank: str
    first: int
    size: int


def parts(base: int, size: int) -> list[Part]:
    """The banks that a buffer touches; addresses beyond the board's map are "other memory"."""
    found, at = [], base
    while at < base + size:
        name, end = "other memory", base + size
        for bank, first, length in BANKS:
            if first <= at < first + length:
                name, end = bank, min(end, first + length)
                break
            if at < first:
                end = min(end, first)
        found.append(Part(name, at - base, end - at))
        at = end
    return found


def probes(part: Part, unit: int, even: int = 32) -> list[int]:
    """Offsets in the buffer whose addresses differ in every bit: `unit` bytes each, no two overlap.

    The first and the last place, one at every power of two, and `even` places in equal distances.
    """
    align = max(unit, ALIGN)
    last = (part.size - unit) // align * align
    if last < 0:
        return []
    offsets = {0, last}
    step = align
    while step <= last:
        offsets.add(step)
        step *= 2
    offsets |= {last * i // even // align * align for i in range(even)}
    return [part.first + offset for offset in sorted(offsets)]
