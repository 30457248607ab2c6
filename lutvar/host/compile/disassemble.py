# SPDX-License-Identifier: Apache-2.0
"""Programs as text: one line per instruction."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from lutvar.contract.column_sums import SumMode
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    UNITS,
    Instruction,
    Opcode,
    OperandField,
    PostOp,
    split_address,
)

from .program import Note, Program


def _value(item: OperandField, value: int) -> str:
    if item.kind == "address":
        region, offset = split_address(value)
        return f"{region.name}+{offset:#x}"
    if item.kind == "float32":
        return f"{struct.unpack('<f', struct.pack('<I', value))[0]:g}"
    if item.kind == "float16":
        return f"{struct.unpack('<e', struct.pack('<H', value))[0]:g}"
    if item.name == "op":
        return PostOp(value).name
    if item.name == "sums":
        return SumMode(value).name
    return str(value)


def _line(index: int, item: Instruction, new: list[int], note: Note | None) -> str:
    waits = " ".join(
        f"{unit.name}:{item.waits[unit]}" for unit in UNITS if item.waits[unit] > new[unit]
    )
    operands = " ".join(
        f"{f.name}={_value(f, item.operands[f.name])}" for f in PAYLOAD_FIELDS[item.opcode]
    )
    text = f"{index:6d}  {item.opcode.name:<6}  {operands}"
    if waits:
        text += f"  wait {waits}"
    if note:
        where = note.what if note.what in ("end", "head") else f"block{note.block}.{note.what}"
        text += f"  ; {where} rows {note.first}+{note.rows}"
    return text


def disassemble(program: Program) -> Iterator[str]:
    """Lines of text; of the waits, only those beyond what the unit has waited for already."""
    yield (
        f"; accelerator {program.accelerator_hash:016x} model {program.model_hash:016x} "
        f"{len(program.instructions)} instructions"
    )
    reached = {op: [0] * len(UNITS) for op in Opcode}
    exact = program.exact()
    for i, item in enumerate(exact.instructions):
        note = program.notes[i] if program.notes else None
        yield _line(i, item, reached[item.opcode], note)
        reached[item.opcode] = [
            max(a, b) for a, b in zip(reached[item.opcode], item.waits, strict=True)
        ]
