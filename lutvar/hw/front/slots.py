# SPDX-License-Identifier: Apache-2.0
"""What the stages of FRONT must know about the instructions in progress."""

from typing import Any

from amaranth.hdl import Cat, Const, Value
from amaranth.lib import data

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.contract.widths import FRONT_SLOTS, WORDS
from lutvar.hw.links import payload_layout

#: Instructions in progress at once: one of them ends while the next one's rows come in.
SLOTS = FRONT_SLOTS
#: Bits of a position that tells a full set of slots from an empty one.
TURN_BITS = 2
#: Bits of a word's position in its group.
GROUP_WORD = (WORDS - 1).bit_length()

_KEPT = (
    "row_first", "bank", "norm", "rotate", "dual", "inverse_width", "epsilon", "sections", "terms",
)  # fmt: skip
#: Kept less 1, which spares every stage a subtraction before it compares: name -> operand.
_LAST = {"last_row": "rows", "last_group": "groups"}


def slot_layout() -> data.StructLayout:
    """Operands kept while an instruction is in progress."""
    shapes = payload_layout(Opcode.FRONT).members
    return data.StructLayout(
        {name: shapes[name] for name in _KEPT}
        | {name: shapes[operand] for name, operand in _LAST.items()}
    )


def slot_values(command: Any) -> dict[str, Value]:
    """What a slot keeps of an instruction's operands."""
    values = {name: Value.cast(command[name]) for name in _KEPT}
    for name, operand in _LAST.items():
        values[name] = (command[operand] - 1)[: len(command[operand])]
    return values


def group_ends(word: Value, last_group: Value) -> Value:
    """Whether the group of the word at this position is the last one of its row."""
    whole = Cat(Const(WORDS - 1, GROUP_WORD), last_group)[: len(word)]
    return (word | (WORDS - 1)) == whole


def vector_words(config: AcceleratorConfig) -> int:
    """Words of 16 values in the longest AdaLN vector."""
    return config.max_width // LANES


def row_words(config: AcceleratorConfig) -> int:
    """Words of 16 values in the longest row."""
    return config.bank_groups * WORDS
