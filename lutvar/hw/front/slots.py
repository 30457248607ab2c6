# SPDX-License-Identifier: Apache-2.0
"""What the stages of FRONT must know about the instructions in progress."""

from amaranth.lib import data

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.links import WORDS, payload_layout

#: Instructions in progress at once: one of them ends while the next one's rows come in.
SLOTS = 2
#: Bits of a position that tells a full set of slots from an empty one.
TURN_BITS = 2

_KEPT = (
    "rows", "row_first", "bank", "groups", "norm", "rotate", "dual", "inverse_width", "epsilon",
)  # fmt: skip


def slot_layout() -> data.StructLayout:
    """Operands kept while an instruction is in progress."""
    shapes = payload_layout(Opcode.FRONT).members
    return data.StructLayout({name: shapes[name] for name in _KEPT})


def vector_words(config: AcceleratorConfig) -> int:
    """Words of 16 values in the longest AdaLN vector."""
    return config.max_width // LANES


def row_words(config: AcceleratorConfig) -> int:
    """Words of 16 values in the longest row."""
    return config.max_groups * WORDS
