# SPDX-License-Identifier: Apache-2.0
"""Finds the first instruction of a program whose results on the device are not the interpreter's.

The compiler's interpreter executes the program on a copy of the memory and keeps what each POST
and ATTEND instruction writes. The device then runs prefixes of the same program, with the same
waits, so that units overlap as they did; comparing all of its memory each time halves the part in
which the first difference lies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import ALIGN, Instruction, Opcode, PostOp, Region
from lutvar.host.compile.footprint import Lines, footprint
from lutvar.host.compile.program import Note, Program, totals
from lutvar.host.device import Device
from lutvar.host.errors import HostError
from lutvar.host.transport import Bytes
from lutvar.sim.interpret import Machine

from .locate_tensors import Element

#: Fills output memory before a run, so that stale data cannot pass for results.
_POISON = 0xA5
_ENDS = Opcode.POST, Opcode.ATTEND
Memory = Mapping[Region, Bytes]


@dataclass(frozen=True)
class Divergence:
    """The first instruction of a program whose results differ.

    Attributes:
        index: of the instruction in the program. unit: which executed it.
        what: block and layer, "block1.fc2", "block0.attention" or "head".
        rows: first row of the pass that it handles, and how many.
        tensor: what it writes, in the names of `GoldenTransformer`'s trace, or the memory's.
        element: index of the first differing element. expected, actual: bit patterns.
        wrong, of: bytes that differ, and all bytes that it writes.
        fed_by: instructions that prepared its input: FRONT, FETCH and MATRIX.
        error: why the device stopped, when it did; there is no element then.
    """

    index: int
    unit: str
    what: str
    rows: tuple[int, int]
    tensor: str
    element: tuple[int, ...]
    expected: int
    actual: int
    wrong: int
    of: int
    fed_by: tuple[str, ...] = ()
    error: str = ""

    def __str__(self) -> str:
        first, count = self.rows
        fed = f", fed by {', '.join(self.fed_by)}" if self.fed_by else ""
        text = f"instruction {self.index} ({self.unit}), {self.what}, rows {first}+{count}{fed}: "
        if self.error:
            return text + self.error
        return text + (
            f"{self.tensor}{list(self.element)}: expected 0x{self.expected:X}, "
            f"got 0x{self.actual:X}; "
            f"{self.wrong} of {self.of} bytes differ"
        )


class Names(NamedTuple):
    """What instructions and bytes of memory are called.

    Attributes:
        what: of an instruction by its note.
        element: at (instruction, note, region, offset); None where it writes none.
    """

    what: Callable[[Note], str]
    element: Callable[[Instruction, Note, Region, int], Element | None]


class Search:
    """A program, the memory before it, what the interpreter makes of them, and the device.

    Args:
        device: has its regions placed, and `model` in MODEL.
        model: contents of MODEL.
        program: with notes.
        before: contents of the regions that are written and compared, from their beginning on.
        names: for people.
        cycles: of the program in the cost model.

    Attributes:
        end: memory after the program.
        runs: programs that the device ran.
    """

    def __init__(
        self, device: Device, model: Bytes, program: Program, before: Memory, names: Names,
        cycles: int,
    ) -> None:  # fmt: skip
        self.device, self.program, self.names = device, program, names
        self._config, self._model, self._limit = device.config, model, 16 * cycles + 1_000_000
        self.start = {region: contents.copy() for region, contents in before.items()}
        self._poison()
        self.written = self._interpret()
        self.cut = -1  # of the latest run
        self.runs = 0

    def first(self) -> Divergence | None:
        """The first instruction whose results differ; None where nothing does."""
        ends = [i for i, item in enumerate(self.program.instructions) if item.opcode in _ENDS]
        low, high, divergence = -1, len(ends) - 1, self.run(ends[-1])
        while divergence is not None and high - low > 1:
            middle = (low + high) // 2
            earlier = self.run(ends[middle])
            if earlier is None:
                low = middle
            else:
                high, divergence = ends.index(earlier.index), earlier
        if divergence is not None and ends[high] != self.cut:
            # Later instructions may have overwritten some of what differs.
            divergence = self.run(ends[high]) or divergence
        return divergence

    def _footprints(self) -> list[tuple[list[tuple[Region, Lines]], list[tuple[Region, Lines]]]]:
        """Lines of memory that each instruction reads and writes."""
        found = [footprint(item, self._config) for item in self.program.instructions]
        return [(one.reads, one.writes) for one in found]

    def _poison(self) -> None:
        """Spoil what the program writes before it reads it."""
        first = {r: np.zeros(m.size // ALIGN, np.int8) for r, m in self.start.items()}
        for reads, writes in self._footprints():
            for mark, places in ((1, reads), (2, writes)):
                for region, lines in places:
                    seen = first.get(region)
                    if seen is not None:
                        seen[lines[seen[lines] == 0]] = mark
        for region, seen in first.items():
            self.start[region].reshape(-1, ALIGN)[seen == 2] = _POISON

    def _writes(self, item: Instruction) -> list[tuple[Region, Lines]]:
        return footprint(item, self._config).writes

    def _interpret(self) -> list[tuple[int, Region, NDArray[np.int64], Bytes]]:
        """(instruction, region, lines, contents) of every write, in program order."""
        machine = Machine(self._config, {})
        self.end = {r: m.copy() for r, m in self.start.items()}
        machine.memory |= {Region.MODEL: self._model, **self.end}
        writes = []
        for i, item in enumerate(self.program.instructions[:-1]):
            machine.step(item)
            for region, lines in self._writes(item):
                writes.append((i, region, lines, self.end[region].reshape(-1, ALIGN)[lines].copy()))
        return writes

    def run(self, cut: int) -> Divergence | None:
        """Run the program to the instruction `cut` on fresh memory; the first one that differs."""
        self.cut = cut
        self.runs += 1
        self.device.soft_reset()
        for region, contents in self.start.items():
            self.device.write(region, 0, contents)
        part = beginning(self.program, cut).encode()
        try:
            self.device.run(part, self._limit, f"instructions to {cut}")
        except HostError as error:
            empty = self._at(cut, "", (), 0, 0, 0, 0)
            self.device.soft_reset()
            return replace(empty, error=str(error))
        return self._compare(cut)

    def _compare(self, cut: int) -> Divergence | None:
        expected = {r: m.copy() for r, m in self.start.items()}
        writer = {r: np.full(m.size // ALIGN, -1, np.int64) for r, m in expected.items()}
        for i, region, lines, contents in self.written:
            if i <= cut:
                expected[region].reshape(-1, ALIGN)[lines] = contents
                writer[region][lines] = i
        actual = {region: self.device.read(region, 0, m.size) for region, m in expected.items()}
        wrong: dict[int, list[tuple[Region, int]]] = {}
        for region, contents in expected.items():
            for at in np.flatnonzero(actual[region] != contents).tolist():
                owner = int(writer[region][at // ALIGN])
                # A stray write is attributed to the last instruction that ran.
                wrong.setdefault(cut if owner < 0 else owner, []).append((region, at))
        if not wrong:
            return None
        index = min(wrong)
        (region, at), count = wrong[index][0], len(wrong[index])
        item = self.program.instructions[index]
        what = self.names.element(item, self.program.notes[index], region, at)
        size = ALIGN * sum(lines.size for _, lines in self._writes(item))
        if what is None:
            name = f"a write outside of what it may write, {region.name}+"
            one = int(expected[region][at]), int(actual[region][at])
            return self._at(index, name, (at,), *one, count, size)
        values = [
            int.from_bytes(m[what.offset : what.offset + what.size].tobytes(), "little")
            for m in (expected[region], actual[region])
        ]
        return self._at(index, what.tensor, what.index, values[0], values[1], count, size)

    def _at(
        self, index: int, tensor: str, element: tuple[int, ...], expected: int, actual: int,
        wrong: int, of: int,
    ) -> Divergence:  # fmt: skip
        item, note = self.program.instructions[index], self.program.notes[index]
        return Divergence(
            index, item.opcode.name, self.names.what(note), (note.first, note.rows), tensor,
            element, expected, actual, wrong, of, tuple(self._feeding(index)),
        )  # fmt: skip

    def _feeding(self, index: int) -> list[str]:
        """FRONT, FETCH and MATRIX instructions whose results a POST instruction drains.

        Of SUMS: the instructions whose results it has summed.
        """
        items = self.program.instructions
        o = items[index].operands
        if items[index].opcode != Opcode.POST or o["op"] == PostOp.NORM:
            return []
        if o["op"] == PostOp.SUMS:
            summed = [i for i in range(index) if items[i].operands.get("sums")]
            return [f"POST {summed[0]} to {summed[-1]}"] if summed else []
        into = [i for i in range(index) if items[i].opcode == Opcode.MATRIX
                and items[i].operands["acc_bank"] == o["acc_bank"]]  # fmt: skip
        parts = [into.pop()]  # of the layer's inputs, the last one first
        while items[parts[-1]].operands["more"]:
            parts.append(into.pop())
        fed = {i for part in parts for i in (*fronts(items, part), *fetches(items, part))}
        return [f"{items[i].opcode.name} {i}" for i in sorted(fed | {*parts})]


def fronts(items: Sequence[Instruction], matrix: int) -> list[int]:
    """Indices of the FRONT instructions that filled the rows which the MATRIX instruction takes."""
    bank, left = items[matrix].operands["bank"], set(range(items[matrix].operands["rows"]))
    result = []
    for i in range(matrix - 1, -1, -1):
        o = items[i].operands
        if items[i].opcode == Opcode.FRONT and o["bank"] == bank:
            rows = set(range(o["row_first"], o["row_first"] + o["rows"]))
            if left & rows:
                result.append(i)
                left -= rows
        if not left:
            break
    return result


def fetches(items: Sequence[Instruction], matrix: int) -> list[int]:
    """Indices of the FETCH instructions whose panels the MATRIX instruction multiplies."""
    first = sum(i.operands["groups"] for i in items[:matrix] if i.opcode == Opcode.MATRIX)
    last = first + items[matrix].operands["groups"]
    result, panel = [], 0
    for i, item in enumerate(items):
        if item.opcode == Opcode.FETCH:
            if first <= panel < last:
                result.append(i)
            panel += item.operands["panels"]
    return result


def beginning(program: Program, cut: int) -> Program:
    """The program to instruction `cut`, and no weights but those that it multiplies."""
    items = program.instructions
    indices = {i for i in range(cut + 1) if items[i].opcode != Opcode.FETCH}
    for i in sorted(indices):
        if items[i].opcode == Opcode.MATRIX:
            indices.update(fetches(items, i))
    instructions = [items[i] for i in sorted(indices)]
    ends = totals(instructions)
    body = [
        Instruction(i.opcode, i.operands, tuple(map(min, zip(i.waits, ends, strict=True))))
        for i in instructions
    ]
    return Program(
        (*body, Instruction(Opcode.END, {}, tuple(ends))),
        program.accelerator_hash, program.model_hash,
    )  # fmt: skip
