# SPDX-License-Identifier: Apache-2.0
"""Which primitive a memory becomes. One place decides, and every memory names its style.

Left alone, synthesis decides by size and by what is left on the device: the operand banks, 72 bits
wide, look like UltraRAM, which the accumulators need.
"""

from enum import Enum


class RamStyle(str, Enum):
    """Values of the Verilog attribute `ram_style`."""

    DISTRIBUTED = "distributed"  #: LUTs
    BLOCK = "block"
    ULTRA = "ultra"


#: A LUT holds 64 words of one bit; up to so many words LUTs are the smaller memory.
SHALLOW = 64
#: A memory with at least so many words may be UltraRAM, which has 4,096 of 72 bits.
ULTRA_WORDS = 2048


def ram_style(depth: int, *, ultra: bool = False) -> RamStyle:
    """The style of a memory of `depth` words.

    Args:
        ultra: it may be UltraRAM: one clock, no initial words, whole words written, and an address
            that has a register to itself.
    """
    if ultra and depth >= ULTRA_WORDS:
        return RamStyle.ULTRA
    return RamStyle.DISTRIBUTED if depth <= SHALLOW else RamStyle.BLOCK


def ram_attributes(depth: int) -> dict[str, str]:
    """The same for a memory of Amaranth's."""
    return {"ram_style": ram_style(depth).value}
