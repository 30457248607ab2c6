# SPDX-License-Identifier: Apache-2.0
"""A program: instructions in order, for one accelerator and one packed model."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

from lutvar.contract import identity, isa
from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import (
    INSTRUCTION_BYTES,
    MAX_INSTRUCTIONS,
    PROGRAM_HEADER,
    PROGRAM_MAGIC,
    Instruction,
    Opcode,
    ProgramError,
    Unit,
)

from .clocks import WRAP, Clocks
from .encode import encode_instructions
from .schedule import Timeline, _fetches_of, program_order

#: FETCH and MATRIX need nothing of each other but the weights. So that neither loses count of the
#: other units, each waits for what the other did so many MATRIX instructions ago, which costs
#: nothing: the weights of the present one can only flow when that is long over.
_ABREAST = 32


class Note(NamedTuple):
    """What an instruction is for: `what` is a layer, "attention" or "end"; see `Operation`."""

    tile: int
    block: int
    what: str
    first: int
    rows: int


@dataclass(frozen=True)
class Program:
    """A program of the accelerator.

    Attributes:
        instructions: in program order, END last. Waits of compiled programs count exactly, those
            of decoded ones modulo 2**16.
        accelerator_hash: of the configuration that it was compiled for.
        model_hash: of the packed model that its addresses refer to; 0 if unknown.
        notes: for each instruction what it is for; empty for decoded programs.
    """

    instructions: tuple[Instruction, ...]
    accelerator_hash: int
    model_hash: int = 0
    notes: tuple[Note, ...] = field(default=(), compare=False)

    def encode(self) -> bytes:
        """The program as it lies in memory: header, then instructions. 64 bytes each."""
        if len(self.instructions) > MAX_INSTRUCTIONS:
            raise ProgramError(
                f"{len(self.instructions)} instructions; a program has at most {MAX_INSTRUCTIONS}"
            )
        head = isa.encode_header(self.accelerator_hash, len(self.instructions), self.model_hash)
        return head + encode_instructions(self.instructions).astype("<u8").tobytes()

    @classmethod
    def read(cls, stream: BinaryIO) -> Program:
        """A program from a file, a pipe or a device, of which no more is read than it says.

        Raises ProgramError for anything else.
        """
        head = stream.read(INSTRUCTION_BYTES)
        if len(head) == INSTRUCTION_BYTES:
            # One more: what follows a program is an error as well.
            head += stream.read(_header(head)["length"] * INSTRUCTION_BYTES + 1)
        return cls.decode(head)

    @classmethod
    def decode(cls, raw: bytes) -> Program:
        """The inverse of `encode`. Raises ProgramError for anything else."""
        size = INSTRUCTION_BYTES
        if len(raw) < 2 * size or len(raw) % size:
            raise ProgramError(f"{len(raw)} bytes; a program is a header and instructions")
        head = _header(raw)
        if head["length"] != len(raw) // size - 1:
            raise ProgramError(
                f"the header says {head['length']} instructions, {len(raw) // size - 1} follow; "
                "the program was cut or altered"
            )
        items = tuple(isa.decode(raw[i * size : (i + 1) * size], i - 1)
                      for i in range(1, head["length"] + 1))  # fmt: skip
        if items[-1].opcode != Opcode.END:
            raise ProgramError("the last instruction is not END; the program was cut or altered")
        return cls(items, head["hash"], head["models"])

    def exact(self) -> Program:
        """The same with waits that count exactly: each is what the device would compare with.

        Raises ProgramError for a wait that lies in the future or too far back.
        """
        counts = [0] * len(isa.UNITS)
        result = []
        for i, item in enumerate(self.instructions):
            waits = []
            for unit, wait in zip(isa.UNITS, item.waits, strict=True):
                behind = (counts[unit] - wait) % WRAP
                if behind > counts[unit]:
                    raise ProgramError(
                        f"instruction {i} waits for {wait} (modulo 2**16) of {unit.name}, of which "
                        f"{counts[unit]} come before it"
                    )
                waits.append(counts[unit] - behind)
            result.append(Instruction(item.opcode, item.operands, tuple(waits)))
            if item.opcode != Opcode.END:
                counts[item.opcode - 1] += 1
        return Program(tuple(result), self.accelerator_hash, self.model_hash, self.notes)


def _header(raw: bytes) -> dict[str, int]:
    """Fields of a program's first word. Raises ProgramError when it is none."""
    word = int.from_bytes(raw[:INSTRUCTION_BYTES], "little")
    head = {f.name: word >> f.low & (1 << f.width) - 1 for f in PROGRAM_HEADER}
    if head["magic"] != PROGRAM_MAGIC:
        raise ProgramError("the first word has no program magic; this is not a program")
    return head


def accelerator_hash(config: AcceleratorConfig) -> int:
    """Hash of an accelerator, 64 bits."""
    return int(identity.accelerator_hash(config))


def assemble(timeline: Timeline, queue: int, hash_: int, model_hash: int = 0) -> Program:
    """Put scheduled instructions in order and give each the counts that it waits for.

    Args:
        timeline: of the scheduler.
        queue: instructions that a unit's queue of the accelerator holds.
        hash_: of the accelerator.
        model_hash: of the packed model.

    A wait field that is not needed holds what is known to be complete anyway, so that counts never
    differ by 2**15 when the device compares them.
    """
    clocks = Clocks()
    instructions: list[Instruction] = []
    notes: list[Note] = []
    ends = list(itertools.accumulate(_fetches_of(timeline), initial=0))
    fetch, matrix = Unit.FETCH, Unit.MATRIX
    for unit, item in program_order(timeline, queue):
        need = item.need
        if unit is fetch:
            at = bisect.bisect_right(ends, clocks.count(unit)) - 1
            need[matrix] = max(0, at - _ABREAST)
        elif unit is matrix:
            need[fetch] = ends[max(0, clocks.count(unit) - _ABREAST)]
        draft = item.draft
        instructions.append(Instruction(draft.opcode, draft.operands, clocks.add(unit, need)))
        op, rows = draft.operation, draft.rows
        notes.append(Note(op.tile, op.block, op.site, rows.first, rows.count))
    _check_wrap(clocks)
    totals = tuple(clocks.count(unit) for unit in isa.UNITS)
    instructions.append(Instruction(Opcode.END, {}, totals))
    notes.append(Note(0, 0, "end", 0, 0))
    return Program(tuple(instructions), hash_, model_hash, tuple(notes))


def _check_wrap(clocks: Clocks) -> None:
    for unit in isa.UNITS:
        for other in isa.UNITS:
            if clocks.lead(unit, other) >= WRAP // 2:
                raise ProgramError(
                    f"{other.name} may run {clocks.lead(unit, other)} instructions ahead of "
                    f"{unit.name}; counts compare right up to {WRAP // 2 - 1}. Use fewer images "
                    "in a pass"
                )


def totals(instructions: Sequence[Instruction]) -> list[int]:
    """Instructions of each unit."""
    counts = [0] * len(isa.UNITS)
    for item in instructions:
        if item.opcode != Opcode.END:
            counts[item.opcode - 1] += 1
    return counts
