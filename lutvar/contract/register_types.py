# SPDX-License-Identifier: Apache-2.0
"""What a register table consists of; the table itself is in `register_map`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

MAGIC = 0x4C555456  #: "LUTV"
ADDRESS_BITS = 12  #: size of the control aperture, 4 KiB


class Access(Enum):
    """What the bus may do to a register."""

    RO = "read only"
    RW = "read and write"
    WO = "write only, reads as 0"
    W1C = "read, write 1 to clear"


@dataclass(frozen=True)
class Field:
    """Bits `low .. low+width-1` of a register."""

    name: str
    low: int
    width: int
    description: str


@dataclass(frozen=True)
class Register:
    """One 32-bit word of the control space."""

    name: str
    offset: int
    access: Access
    description: str
    reset: int = 0
    fields: tuple[Field, ...] = field(default=())

    def field_value(self, word: int, name: str) -> int:
        """Extract a field from a word read from this register."""
        for item in self.fields:
            if item.name == name:
                return (word >> item.low) & ((1 << item.width) - 1)
        names = [f.name for f in self.fields]
        raise KeyError(f"{self.name} has no field {name!r}; fields: {names}")
