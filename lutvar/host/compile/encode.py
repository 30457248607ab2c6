# SPDX-License-Identifier: Apache-2.0
"""Instructions to bytes, all of an opcode at a time.

`lutvar.contract.isa.encode` defines the bytes and words the errors; this gives the same ones at a
tenth of the time, which a program of 50,000 instructions needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

from lutvar.contract import isa
from lutvar.contract.isa import (
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    MARK,
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    OperandField,
)

#: Words of 64 bits in an instruction.
WORDS = INSTRUCTION_BYTES // 8
Words = NDArray[np.uint64]


def put_field(words: Words, rows: NDArray[np.int64], field: OperandField, values: Words) -> None:
    """Add a field's bits to rows of `words`, [n, 8]; they must be 0 there.

    Args:
        words: the instructions.
        rows: which of them, [k], each once.
        field: where its bits lie.
        values: [k]; bits above the field's width are cut off.
    """
    at, shift = divmod(field.low, 64)
    values = values & np.uint64((1 << field.width) - 1)
    words[rows, at] |= values << np.uint64(shift)
    if shift + field.width > 64:
        words[rows, at + 1] |= values >> np.uint64(64 - shift)


def set_field(words: Words, rows: NDArray[np.int64], field: OperandField, values: Words) -> None:
    """Replace a field's bits in rows of `words`; arguments as for `put_field`."""
    at, shift = divmod(field.low, 64)
    mask = (1 << field.width) - 1
    words[rows, at] &= np.uint64(~(mask << shift) & 2**64 - 1)
    if shift + field.width > 64:
        words[rows, at + 1] &= np.uint64(~(mask >> 64 - shift) & 2**64 - 1)
    put_field(words, rows, field, values)


def get_field(words: Words, rows: NDArray[np.int64], field: OperandField) -> Words:
    """A field's bits in rows of `words`, [k]: the inverse of `put_field`."""
    at, shift = divmod(field.low, 64)
    values = words[rows, at] >> np.uint64(shift)
    if shift + field.width > 64:
        values = values | words[rows, at + 1] << np.uint64(64 - shift)
    return values & np.uint64((1 << field.width) - 1)


def encode_instructions(instructions: Sequence[Instruction]) -> Words:
    """The words of a program without its header, uint64 [n, 8].

    Raises ProgramError for operands that are missing, unknown or out of range.
    """
    count = len(instructions)
    words = np.zeros((count, WORDS), np.uint64)
    everything = np.arange(count)
    opcodes = np.array([int(item.opcode) for item in instructions], np.uint64)
    waits = np.array([item.waits for item in instructions], np.int64).reshape(count, -1)
    columns = {"opcode": opcodes, "zero": opcodes * 0, "index": everything.astype(np.uint64),
               "mark": np.full(count, MARK, np.uint64)}  # fmt: skip
    for unit in isa.UNITS:
        columns[f"wait_{unit.name.lower()}"] = waits[:, unit].astype(np.uint64)
    for field in HEADER_FIELDS:
        put_field(words, everything, field, columns[field.name])
    for opcode, fields in PAYLOAD_FIELDS.items():
        rows = np.flatnonzero(opcodes == int(opcode))
        if len(rows) and fields:
            _put_operands(words, rows, fields, [instructions[i] for i in rows.tolist()])
        elif len(rows) and any(instructions[i].operands for i in rows.tolist()):
            _complain(rows, [instructions[i] for i in rows.tolist()])
    return words


def _put_operands(
    words: Words,
    rows: NDArray[np.int64],
    fields: Sequence[OperandField],
    items: Sequence[Instruction],
) -> None:
    """Add the operands of instructions of one opcode."""
    pick = itemgetter(*(field.name for field in fields))
    try:
        values = np.array([pick(item.operands) for item in items], np.int64)
    except (KeyError, OverflowError):
        _complain(rows, items)
        raise
    low = np.array([-(1 << f.width - 1) if f.signed else 0 for f in fields])
    high = np.array([1 << (f.width - 1 if f.signed else f.width) for f in fields])
    wrong = ((values < low) | (values >= high)).any()
    if wrong or any(len(item.operands) != len(fields) for item in items):
        _complain(rows, items)
    for i, field in enumerate(fields):
        put_field(words, rows, field, values[:, i].astype(np.uint64))


def _complain(rows: NDArray[np.int64], items: Sequence[Instruction]) -> None:
    """Raise the error of the first instruction that has one."""
    for row, item in zip(rows.tolist(), items, strict=True):
        isa.encode(item, row)


def opcodes_of(words: Words) -> NDArray[np.int64]:
    """The opcode of each instruction, [n]."""
    return (words[:, 0] & np.uint64(0xFF)).astype(np.int64)


def rows_of(words: Words, opcode: Opcode) -> NDArray[np.int64]:
    """Where the instructions of an opcode are."""
    return np.flatnonzero(opcodes_of(words) == int(opcode))
