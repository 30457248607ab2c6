# SPDX-License-Identifier: Apache-2.0
"""Repeats a pass whose results differed, and finds the first instruction that is wrong.

The compiler's interpreter executes the program on a copy of the memory and keeps what each POST
and ATTEND instruction writes. The device then runs prefixes of the same program, with the same
waits, so that units overlap as they did; comparing all of its memory each time halves the part in
which the first difference lies. The cache of earlier passes must still be as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import ALIGN, Instruction, Opcode, Region
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.compiler import CompiledPass
from lutvar.host.compile.footprint import Lines, footprint
from lutvar.host.compile.program import Program, totals
from lutvar.host.errors import HostError
from lutvar.host.transformer import DeviceTransformer
from lutvar.host.transport import Bytes, as_bytes
from lutvar.sim.interpret import Machine

from .locate_tensors import element_of, part_of_model

#: Fills output memory before a run, so that stale data cannot pass for results.
_POISON = 0xA5
_Memory = dict[Region, Bytes]


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


@dataclass(frozen=True)
class Located:
    """What repeating a pass has shown.

    Attributes:
        model: which part of the model in device memory is not what was packed; empty if all is.
        program: how the program itself disagrees with the golden model; empty if it agrees.
        divergence: the first instruction whose results differ, or None: it did not happen again.
        runs: programs that the device ran.
    """

    model: str
    program: str
    divergence: Divergence | None
    runs: int

    def __str__(self) -> str:
        lines = [line for line in (self.model, self.program) if line]
        lines.append(
            str(self.divergence)
            if self.divergence
            else "the pass was repeated and nothing differed: it depends on time, or on memory "
            "that was written in between"
        )
        return "\n".join(lines)


def locate(
    transformer: DeviceTransformer,
    steps: Sequence[ImageStep],
    expected: Sequence[NDArray[np.float32]] | None = None,
) -> Located:
    """Repeat a pass and find the first instruction whose results differ.

    Afterwards the device's memory is as it was before, and an error of the device is cleared.

    Args:
        transformer: ran the pass; nothing has run since.
        steps: of the pass.
        expected: logits of the golden model, to check the program itself.

    Raises:
        HostError: the device does not come back after a soft reset.
    """
    search = _Search(transformer, steps)
    program = search.program_differs(expected) if expected is not None else ""
    ends = [i for i, item in enumerate(search.program.instructions)
            if item.opcode in (Opcode.POST, Opcode.ATTEND)]  # fmt: skip
    low, high, divergence = -1, len(ends) - 1, search.run(ends[-1])
    runs = 1
    while divergence is not None and high - low > 1:
        middle = (low + high) // 2
        runs += 1
        earlier = search.run(ends[middle])
        if earlier is None:
            low = middle
        else:
            high, divergence = ends.index(earlier.index), earlier
    if divergence is not None and ends[high] != search.cut:
        # Later instructions may have overwritten some of what differs.
        divergence = search.run(ends[high]) or divergence
        runs += 1
    search.restore()
    return Located(search.model_differs(), program, divergence, runs)


class _Search:
    """A pass, its reference, and the device."""

    def __init__(self, transformer: DeviceTransformer, steps: Sequence[ImageStep]) -> None:
        self.device, self.packed = transformer.device, transformer.packed
        self.compiled: CompiledPass = transformer.compile(steps)
        self.program = self.compiled.program
        plan = self.compiled.plan
        sizes = {
            Region.WORK: plan.work_size, Region.IO: plan.io_size, Region.CACHE: plan.cache_size,
        }  # fmt: skip
        self.before: _Memory = {r: self.device.read(r, 0, n) for r, n in sizes.items()}
        self.start = {region: contents.copy() for region, contents in self.before.items()}
        raw = as_bytes(self.compiled.embeddings(steps))
        self.start[Region.IO][: raw.size] = raw
        for item in self.program.instructions:
            for region, lines in self._writes(item):
                self.start[region].reshape(-1, ALIGN)[lines] = _POISON
        self.written = self._interpret()
        self.cut = -1  # of the latest run

    def _writes(self, item: Instruction) -> list[tuple[Region, Lines]]:
        """Lines of memory that an instruction writes."""
        return footprint(item, self.packed.layout.config).writes

    def _interpret(self) -> list[tuple[int, Region, NDArray[np.int64], Bytes]]:
        """(instruction, region, lines, contents) of every write, in program order."""
        machine = Machine(self.packed.layout.config, {})
        self.end = {r: m.copy() for r, m in self.start.items()}
        machine.memory |= {Region.MODEL: self.packed.image, **self.end}
        writes = []
        for i, item in enumerate(self.program.instructions[:-1]):
            machine.step(item)
            for region, lines in self._writes(item):
                writes.append((i, region, lines, self.end[region].reshape(-1, ALIGN)[lines].copy()))
        return writes

    def program_differs(self, expected: Sequence[NDArray[np.float32]]) -> str:
        first = self.compiled.logits_first
        raw = self.end[Region.IO][first : first + self.compiled.logits_bytes]
        for k, (a, b) in enumerate(zip(self.compiled.logits(raw), expected, strict=True)):
            wrong = np.argwhere(a.view(np.uint32) != b.view(np.uint32))
            if wrong.size:
                return (
                    f"the compiled program itself gives other logits than the golden model, first "
                    f"logits.{k}{wrong[0].tolist()}: look into the compiler or the packed model"
                )
        return ""

    def model_differs(self) -> str:
        image = self.packed.image
        wrong = np.flatnonzero(self.device.read(Region.MODEL, 0, len(image)) != image)
        if not wrong.size:
            return ""
        at = int(wrong[0])
        return (
            f"{wrong.size} bytes of the model in device memory are not what was packed, first "
            f"MODEL+{at:#x}: {part_of_model(self.packed.layout, at)}"
        )

    def restore(self) -> None:
        """Put back what was in memory."""
        for region, contents in self.before.items():
            self.device.write(region, 0, contents)

    def run(self, cut: int) -> Divergence | None:
        """Run the program to the instruction `cut` on fresh memory; the first one that differs."""
        self.cut = cut
        self.device.soft_reset()
        for region, contents in self.start.items():
            self.device.write(region, 0, contents)
        limit = 16 * self.compiled.cycles + 1_000_000
        try:
            self.device.run(beginning(self.program, cut).encode(), limit, f"instructions to {cut}")
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
        what = element_of(item, self.program.notes[index], self.compiled.plan, region, at)
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
        what = note.what if note.what == "head" else f"block{note.block}.{note.what}"
        return Divergence(
            index, item.opcode.name, what, (note.first, note.rows), tensor, element, expected,
            actual, wrong, of, tuple(self._feeding(index)),
        )  # fmt: skip

    def _feeding(self, index: int) -> list[str]:
        """FRONT, FETCH and MATRIX instructions whose results a POST instruction drains."""
        items, notes = self.program.instructions, self.program.notes
        if items[index].opcode != Opcode.POST:
            return []
        bank = items[index].operands["acc_bank"]
        into = [i for i in range(index) if items[i].opcode == Opcode.MATRIX
                and items[i].operands["acc_bank"] == bank]  # fmt: skip
        parts = [into.pop()]  # of the layer's inputs, the last one first
        while items[parts[-1]].operands["more"]:
            parts.append(into.pop())
        fronts = [i for i in range(parts[0]) if items[i].opcode == Opcode.FRONT
                  and notes[i][:3] == notes[parts[0]][:3]]  # fmt: skip
        indices = sorted([*fronts, *parts, *(f for part in parts for f in fetches(items, part))])
        return [f"{items[i].opcode.name} {i}" for i in indices]


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
