# SPDX-License-Identifier: Apache-2.0
"""The memory of devices that are no boards: where it lies, how large it is, what is outside."""

from __future__ import annotations

#: Where the memory lies: the first LPDDR4 controller of a VCK190, so that addresses need 64 bits.
BASE = 0x500_0000_0000
#: Its size unless told otherwise; a page that nobody touches costs nothing.
MEMORY_MIB = 256


def check_bounds(size: int, offset: int, count: int) -> None:
    """Raise BadInput unless `count` bytes at an offset lie in a memory of `size` bytes."""
    if offset < 0 or count < 0 or offset + count > size:
        from lutvar.host.errors import BadInput  # here: the help of a command names the size

        raise BadInput(
            f"bytes {offset} to {offset + count} are outside the device's memory of {size} bytes; "
            "use fewer slots or more memory"
        )
