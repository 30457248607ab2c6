# SPDX-License-Identifier: Apache-2.0
"""Random programs that keep every rule, so that the interpreter says what they must leave.

Operands come from the instruction table: a field that has no meaning in an instruction (the AdaLN
vectors of a FRONT without `norm`, the records of a POST that is no QKV) gets random bits, and so
does a field that is new and unknown here.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lutvar.contract.accelerator import (
    BEAT_BYTES,
    HEAD_DIM,
    ROW_GROUP,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.isa import (
    ALIGN,
    PAYLOAD_FIELDS,
    UNITS,
    Instruction,
    Opcode,
    OperandField,
    PostOp,
    Region,
    Unit,
    address,
)
from lutvar.contract.memory import RECORD_BYTES, panel_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.host.compile.check import check_program
from lutvar.host.compile.errors import OrderError
from lutvar.host.compile.footprint import footprint
from lutvar.host.compile.program import Program, accelerator_hash
from lutvar.host.compile.schedule import unit_of

from .contents import PROGRAM_OFFSET, SIZES, Fill

#: Bytes of each region that programs use; the rest of IO is the program's.
_ROOM = {**SIZES, Region.IO: PROGRAM_OFFSET}


@dataclass(frozen=True)
class Wellformed:
    """A program and what lies in memory before it."""

    program: Program
    fills: tuple[Fill, ...]


@dataclass
class _Rows:
    """Rows in memory that an instruction can read: FP16 or float32, or q records."""

    kind: str
    at: int
    stride: int
    rows: int
    size: int  # columns, or heads


@dataclass
class _Draft:
    instructions: list[Instruction] = field(default_factory=list)
    fills: list[Fill] = field(default_factory=list)
    used: dict[Region, int] = field(default_factory=lambda: dict.fromkeys(Region, 0))
    rows: list[_Rows] = field(default_factory=list)
    #: Activation bank -> rows from 0, groups, dual; accumulator bank -> blocks of 32, rows.
    banks: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    sums: dict[int, tuple[int, int]] = field(default_factory=dict)


class _Full(Exception):
    """There is no memory left for this program."""


class Generator:
    """Makes programs for one accelerator from one generator of random numbers.

    Args:
        config: the accelerator.
        rng: source of all choices.
        small: rows, groups and outputs stay small, for programs that only check the device.
    """

    def __init__(
        self, config: AcceleratorConfig, rng: np.random.Generator, *, small: bool = False
    ) -> None:
        self.config, self.rng, self.small = config, rng, small
        self._draft = _Draft()

    def make(self, length: int) -> Wellformed:
        """A program of about `length` instructions, END not counted."""
        self._draft = draft = _Draft()
        if self.small:
            self._chain(int(PostOp.ADD))
            self._attend()
        while len(draft.instructions) < length:
            before = copy.deepcopy(draft)
            try:
                if self._one_in(5):
                    self._attend()
                else:
                    self._chain()
            except _Full:
                self._draft = draft = before if before.instructions else _Draft()
                if before.instructions:
                    break
        return Wellformed(self._ordered(draft.instructions), tuple(draft.fills))

    # Choices ---------------------------------------------------------------------------------
    def _one_in(self, n: int) -> bool:
        return int(self.rng.integers(n)) == 0

    def _upto(self, low: int, high: int) -> int:
        """A number in a range: its ends more often than the rest, small ones more often too."""
        if self.small:
            high = min(high, low + 1)
        if high <= low:
            return low
        choice = int(self.rng.integers(8))
        if choice == 0:
            return high
        if choice == 1:
            return low
        if choice < 5:
            return int(self.rng.integers(low, min(high, low + 3) + 1))
        return int(self.rng.integers(low, high + 1))

    def _seed(self) -> int:
        return int(self.rng.integers(1 << 32))

    def _random(self, item: OperandField) -> int:
        """A value for a field that does not matter: any, of the alignment that it needs."""
        value = int.from_bytes(self.rng.bytes(8), "little") & ((1 << item.width) - 1)
        if item.kind == "address" or item.name.endswith("stride"):
            value -= value % ALIGN
        return value - (1 << item.width) if item.signed and value >> item.width - 1 else value

    def _emit(self, opcode: Opcode, **operands: int) -> None:
        values = {
            item.name: operands[item.name] if item.name in operands else self._random(item)
            for item in PAYLOAD_FIELDS[opcode]
        }
        self._draft.instructions.append(Instruction(opcode, values))

    # Memory ----------------------------------------------------------------------------------
    def _space(self, region: Region, size: int) -> int:
        """Address of fresh bytes, a few lines after those before."""
        at = self._draft.used[region] + ALIGN * int(self.rng.integers(4))
        if at + size > _ROOM[region]:
            raise _Full
        self._draft.used[region] = at + size
        return address(region, at)

    def _fill(self, kind: str, where: int, *sizes: int) -> None:
        region, offset = Region(where >> 38), where & ((1 << 38) - 1)
        self._draft.fills.append(Fill(kind, region, offset, self._seed(), sizes))

    def _stride(self, size: int) -> int:
        return size + ALIGN * (int(self.rng.integers(1, 4)) if self._one_in(3) else 0)

    def _input(self, kind: str, rows: int, columns: int) -> _Rows:
        """Fresh rows in IO, "half" or "float"."""
        size = columns * (4 if kind == "float" else 2)
        stride = 0 if self._one_in(12) else self._stride(size)
        where = self._space(Region.IO, max(stride * (rows - 1), 0) + size)
        count = (stride * (rows - 1) + size) // (4 if kind == "float" else 2)
        self._fill(kind, where, count)
        return _Rows(kind, where, stride, rows, columns)

    def _output(self, kind: str, rows: int, columns: int) -> _Rows:
        """Room for rows in WORK or IO."""
        size = columns * (4 if kind == "float" else 2)
        stride = self._stride(size)
        region = Region.IO if self._one_in(3) else Region.WORK
        return _Rows(kind, self._space(region, stride * (rows - 1) + size), stride, rows, columns)

    # Instructions ----------------------------------------------------------------------------
    def _chain(self, op: int | None = None) -> None:
        """FRONT, FETCH, MATRIX, perhaps a second part, and POST."""
        config, draft = self.config, self._draft
        bank = int(self.rng.integers(config.act_banks))
        if bank not in draft.banks or not self._one_in(4):
            self._front(bank)
        rows, groups, dual = draft.banks[bank]
        acc = int(self.rng.integers(config.acc_banks))
        step = 4  # outputs that POST takes are multiples of 128
        blocks = step * self._upto(1, config.acc_depth // WEIGHT_BLOCK // step)
        used = rows if self._one_in(3) else self._upto(1, rows)
        self._matrix(bank, acc, groups, blocks, dual, used, more=0)
        while self._one_in(4):
            if self._one_in(2):
                bank = int(self.rng.integers(config.act_banks))
                self._front(bank, used)
            rows, groups, dual = draft.banks[bank]
            if rows >= used:
                self._matrix(bank, acc, groups, blocks, dual, used, more=1)
        for _ in range(1 if self.small else self._upto(1, 3)):
            self._post(acc, blocks // step, used, op)

    def _front(self, bank: int, least: int = 1) -> None:
        config, draft = self.config, self._draft
        total = max(least, self._upto(1, config.rows))
        norm = int(self.rng.integers(2))
        limit = min(config.max_width // GROUP, config.bank_groups) if norm else config.bank_groups
        dual = int(config.quant_config.dual_format is not None and self._one_in(3))
        kind = "float" if norm else "half"
        old = [
            r for r in draft.rows
            if r.kind == kind and r.size // GROUP <= limit and r.rows >= least
        ]  # fmt: skip
        source = old[int(self.rng.integers(len(old)))] if old and self._one_in(2) else None
        groups = self._upto(1, limit) if source is None else source.size // GROUP
        if source is not None:
            total = max(least, min(total, source.rows))
        first = 0
        while first < total:
            count = total - first
            if source is None and self._one_in(3):
                count = self._upto(1, count)
            rows = source or self._input(kind, count, groups * GROUP)
            operands = {
                "address": rows.at, "stride": rows.stride, "rows": count, "row_first": first,
                "bank": bank, "groups": groups, "norm": norm, "dual": dual,
                "rotate": int(self.rng.integers(2)),
            }  # fmt: skip
            if norm:
                for name in ("scale", "shift"):
                    operands[name] = self._space(Region.MODEL, 2 * groups * GROUP)
                    self._fill("half", operands[name], groups * GROUP)
                inverse = np.float32(1.0 / (groups * GROUP)).view(np.uint32)
                epsilon = np.float32(10.0 ** -int(self.rng.integers(4, 8))).view(np.uint32)
                operands |= {"inverse_width": int(inverse), "epsilon": int(epsilon)}
            self._emit(Opcode.FRONT, **operands)
            first += count
        draft.banks[bank] = (total, groups, dual)

    def _matrix(
        self, bank: int, acc: int, groups: int, blocks: int, dual: int, rows: int, more: int
    ) -> None:
        bits = self.config.quant_config.code_bits
        left = groups
        while left:
            first = left == groups
            beats = panel_beats(blocks * WEIGHT_BLOCK, bits, first)
            panels = 1 if first else self._upto(1, left)
            where = self._space(Region.MODEL, panels * beats * BEAT_BYTES)
            for panel in range(panels):
                self._fill("panel", where + panel * beats * BEAT_BYTES, blocks * WEIGHT_BLOCK,
                           int(first))  # fmt: skip
            self._emit(Opcode.FETCH, address=where, beats=beats, panels=panels, repeat=1 + dual)
            left -= panels
        exponent = (
            int(self.rng.integers(-32, 32)) if self._one_in(6) else -int(self.rng.integers(3, 12))
        )
        self._emit(
            Opcode.MATRIX, bank=bank, acc_bank=acc, groups=groups, blocks=blocks, dual=dual,
            exponent=exponent, rows=rows, more=more,
        )  # fmt: skip

    def _post(self, acc: int, blocks: int, rows: int, op: int | None) -> None:
        """Rows of the accumulators to memory; a QKV where the widths allow it."""
        group = int(self.rng.integers(-(-rows // ROW_GROUP)))
        limit = min(ROW_GROUP, rows - group * ROW_GROUP)
        first = int(self.rng.integers(limit)) if self._one_in(2) else 0
        count = self._upto(1, limit - first)
        op = int(self.rng.integers(4)) if op is None else op
        operands = {
            "acc_bank": acc, "row_group": group, "row_first": first, "rows": count,
            "blocks": blocks, "op": op, "scalar": int(
                np.float16(np.clip(self.rng.standard_normal() * 4, -50, 50)).view(np.uint16)
            ),
        }  # fmt: skip
        if op == PostOp.QKV:
            self._qkv(operands, blocks, count)
            return
        columns = blocks * GROUP
        kind = "half" if op == PostOp.GELU else "float"
        vector = int(op != PostOp.GELU and self.rng.integers(2))
        operands["vector"] = vector
        if vector:
            operands["vector_address"] = self._space(Region.MODEL, 2 * columns)
            self._fill("half", operands["vector_address"], columns)
        if op == PostOp.ADD:
            old = [r for r in self._draft.rows
                   if r.kind == "float" and r.size == columns and r.rows >= count]  # fmt: skip
            rows_in = self._input("float", count, columns)
            if old and self._one_in(2):
                rows_in = old[int(self.rng.integers(len(old)))]
            operands |= {"input": rows_in.at, "input_stride": rows_in.stride}
        result = self._output(kind, count, columns)
        operands |= {"output": result.at, "output_stride": result.stride}
        self._emit(Opcode.POST, **operands)
        self._draft.rows.append(result)

    def _qkv(self, operands: dict[str, int], blocks: int, rows: int) -> None:
        limit = self.config.max_width // HEAD_DIM
        heads = 2 * self._upto(max(1, -(-blocks // 3)), limit // 2)
        total = heads + heads // 2
        if blocks > total:
            operands |= {"op": int(PostOp.GELU), "blocks": blocks, "vector": 0}
            result = self._output("half", rows, blocks * GROUP)
            self._emit(Opcode.POST, **operands, output=result.at, output_stride=result.stride)
            self._draft.rows.append(result)
            return
        first = int(self.rng.integers(total - blocks + 1))
        stride = self._stride(heads * RECORD_BYTES)
        head_stride = self._stride(rows * RECORD_BYTES)
        cache = [self._space(Region.CACHE, heads * head_stride) for _ in range(2)]
        vectors = self._space(Region.MODEL, 2 * blocks * GROUP)
        self._fill("kappa", vectors, blocks * GROUP)
        queries = self._space(Region.WORK, (rows - 1) * stride + heads * RECORD_BYTES)
        operands |= {
            "vector": 1, "vector_address": vectors, "heads": heads, "block_first": first,
            "output": queries, "output_stride": stride, "keys": cache[0], "values": cache[1],
            "head_stride": head_stride,
        }  # fmt: skip
        self._emit(Opcode.POST, **operands)

    def _attend(self) -> None:
        config = self.config
        heads = self._upto(1, config.max_width // HEAD_DIM)
        keys = self._upto(1, min(config.max_keys, 0x6000 // (heads * RECORD_BYTES)))
        rows = self._upto(1, 2 * config.attention_rows + 3)
        stride = self._stride(heads * RECORD_BYTES)
        head_stride = self._stride(keys * RECORD_BYTES)
        queries = self._space(Region.IO, (rows - 1) * stride + heads * RECORD_BYTES)
        self._fill("queries", queries, rows, heads, stride)
        cache = self._space(Region.CACHE, 2 * heads * head_stride)
        self._fill("cache", cache, heads, keys, head_stride, heads * head_stride)
        result = self._output("half", rows, heads * HEAD_DIM)
        self._emit(
            Opcode.ATTEND, rows=rows, heads=heads, keys=keys, query=queries, query_stride=stride,
            keys_address=cache, values_address=cache + heads * head_stride,
            head_stride=head_stride, output=result.at, output_stride=result.stride,
        )  # fmt: skip
        if result.size % GROUP == 0:
            self._draft.rows.append(result)

    # Order -----------------------------------------------------------------------------------
    def _early(self, items: Sequence[Instruction]) -> list[Instruction]:
        """FETCH instructions some places earlier, in their own order."""
        result: list[Instruction] = []
        newest = 0
        for item in items:
            if item.opcode is Opcode.FETCH:
                at = int(self.rng.integers(newest, len(result) + 1))
                if self._one_in(2):
                    at = len(result)
                result.insert(at, item)
                newest = at + 1
            else:
                result.append(item)
        return result

    def _ordered(self, items: Sequence[Instruction]) -> Program:
        """The program, with the waits that it needs and perhaps some more.

        FETCH instructions far ahead, and waits that nobody needs, can make a program stick.
        """
        early = self._early(items)
        for choice, extra in ((early, True), (early, False), (items, False)):
            program = self._with_waits(choice, extra=extra and self._one_in(2))
            try:
                check_program(program, self.config)
            except OrderError:
                if choice is items:
                    raise
            else:
                break
        return program

    def _with_waits(self, items: Sequence[Instruction], *, extra: bool) -> Program:
        result, counts = [], [0] * len(UNITS)
        for item, need in zip(items, _needed_waits(items), strict=True):
            waits = list(need)
            for unit in UNITS:
                if extra and unit is not Unit.FETCH and self._one_in(2):
                    waits[unit] = int(self.rng.integers(need[unit], counts[unit] + 1))
            result.append(Instruction(item.opcode, item.operands, tuple(waits)))
            counts[unit_of(item.opcode)] += 1
        result.append(Instruction(Opcode.END, {}, tuple(counts)))
        return Program(tuple(result), accelerator_hash(self.config))


def _needed_waits(items: Sequence[Instruction]) -> list[tuple[int, ...]]:
    """For each instruction the counts of all units whose results it touches or overwrites."""
    history: list[tuple[Unit, int, set[object], set[object]]] = []
    counts = [0] * len(UNITS)
    result = []
    for item in items:
        unit = unit_of(item.opcode)
        reads, writes = _cells(item)
        need = [0] * len(UNITS)
        for other, count, read, written in history:
            if need[other] >= count:
                continue
            if item.operands.get("more") and other is unit:
                continue  # MATRIX keeps its own order of passes over an accumulator
            if written & reads or written & writes or read & writes:
                need[other] = count
        counts[unit] += 1
        history.append((unit, counts[unit], reads, writes))
        result.append(tuple(need))
    return result


def _cells(item: Instruction) -> tuple[set[object], set[object]]:
    touched = footprint(item)
    reads: set[object] = {(r, int(n)) for r, lines in touched.reads for n in lines}
    writes: set[object] = {(r, int(n)) for r, lines in touched.writes for n in lines}
    for cells, banks in ((reads, touched.bank_reads), (writes, touched.bank_writes)):
        cells |= {("bank", bank, first + n) for bank, first, count in banks for n in range(count)}
    reads |= {("sums", bank) for bank in touched.accumulator_reads}
    writes |= {("sums", bank) for bank in touched.accumulator_writes}
    return reads, writes
