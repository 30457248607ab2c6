# SPDX-License-Identifier: Apache-2.0
"""POST instructions: random cases, and what memory holds afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.column_sums import MAX_BLOCKS, SumMode, integers, pack
from lutvar.contract.isa import PAYLOAD_FIELDS, Opcode, PostOp
from lutvar.contract.memory import pack_records
from lutvar.quant.golden import pointwise
from support.hw.axi_memory import AxiMemory

OPERANDS = tuple(item.name for item in PAYLOAD_FIELDS[Opcode.POST])
HEAD = 64


def config_of(name: str = "small-fp6", **changes: Any) -> AcceleratorConfig:
    return load_accelerator(name).model_copy(update=changes)


@dataclass
class Case:
    """An instruction, the accumulators that it finds and the rows that it adds."""

    operands: dict[str, int]
    y: np.ndarray  #: float32 [16, columns]: the drained rows, none without accumulators
    g: np.ndarray | None  #: FP16 [columns]

    @property
    def rows(self) -> range:
        first = self.operands["row_first"]
        return range(first, first + self.operands["rows"])


@dataclass
class Spec:
    """What to draw."""

    op: PostOp
    blocks: int = 1
    row_first: int = 0
    rows: int = 16
    vector: bool = True
    heads: int = 0
    block_first: int = 0
    in_place: bool = False
    tight: bool = False  #: rows without a gap between them
    shift: bool = False
    gate: bool = False
    sums: int = 0
    base: int | None = None
    source: int | None = None  #: where NORM's rows lie, float32 and tight
    #: range of exponents of values, beside those of all
    large: bool = False


def _values(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    y = rng.normal(0, 2, shape).astype(np.float32)
    y *= (2.0 ** rng.integers(-12, 10, shape)).astype(np.float32)
    edges = [0.0, -0.0, 8.0, -8.0, 65504, 65520, -1e6, 2.0**-24, -(2.0**-25), 2.0**-70, 1.0]
    at = rng.random(shape) < 0.05
    y[at] = rng.choice(np.array(edges, np.float32), int(at.sum()))
    return y


class Program:
    """Cases at addresses of their own, the memory before and the memory that must follow."""

    def __init__(self, config: AcceleratorConfig, specs: list[Spec], seed: int) -> None:
        self.config = config
        self.rng = np.random.default_rng(seed)
        self.before: dict[int, bytes] = {}
        self.after: dict[int, bytes] = {}
        self.next = 0x1_0000_0000 + (seed << 20)
        #: S1 and S2 of the columns, as they are after the latest case.
        self.values = np.zeros(128 * MAX_BLOCKS, np.int64)
        self.squares = np.zeros(128 * MAX_BLOCKS, np.uint64)
        self.cases = [self._case(number, spec) for number, spec in enumerate(specs)]

    def _place(self, size: int) -> int:
        at = self.next
        self.next += (size + 0xFFF) // 64 * 64
        return at

    def _case(self, number: int, spec: Spec) -> Case:
        rng, blocks = self.rng, spec.blocks
        columns = 128 * blocks
        item = {PostOp.GELU: 2, PostOp.NORM: 2, PostOp.QKV: 1}.get(spec.op, 4)
        stride = columns * item + (0 if spec.tight else 64 * int(rng.integers(0, 5)))
        in_stride = stride if spec.in_place else columns * 4 + 64 * int(rng.integers(0, 5))
        output = self._place(16 * stride) if spec.base is None else spec.base
        o = dict.fromkeys(OPERANDS, 0)
        sections = int(rng.integers(self.config.max_sections.bit_length()))
        o |= {
            "acc_bank": number % self.config.acc_banks, "sections": sections,
            "row_group": int(rng.integers(0, self.config.row_groups >> sections)),
            "row_first": spec.row_first, "rows": spec.rows, "blocks": blocks, "op": int(spec.op),
            "vector": int(spec.vector), "output": output, "output_stride": stride,
            "scalar": int(np.array(rng.normal(), np.float16).view(np.uint16)),
            "heads": spec.heads, "block_first": spec.block_first, "shift": int(spec.shift),
            "gate": int(spec.gate),
            "sums": spec.sums,
        }  # fmt: skip
        y = _values(rng, (16, columns))
        if spec.large:
            y *= (2.0 ** rng.integers(-20, 20, y.shape)).astype(np.float32)
        if spec.op is PostOp.SUMS:
            raw = pack(self.values[:columns], self.squares[:columns]).tobytes()
            for beat in range(0, len(raw), 64):
                self.after[output + beat] = raw[beat : beat + 64]
            return Case(o, y[:, :0], None)
        used = y[spec.row_first : spec.row_first + spec.rows]
        g = None
        if spec.vector:
            g = rng.normal(0, 1, columns).astype(np.float16)
            if spec.op is PostOp.QKV:
                g = np.repeat(np.abs(g[::HEAD]) * np.float16(30), HEAD)
            o["vector_address"] = self._place(columns * 2)
            self.before[o["vector_address"]] = g.tobytes()
        factor = g if g is not None else np.uint16(o["scalar"]).view(np.float16)
        if spec.op is PostOp.QKV:
            self._records(spec, o, used, factor)
            return Case(o, y, g)
        results: np.ndarray
        if spec.op in (PostOp.ADD, PostOp.NORM):
            place = output if spec.in_place else spec.source
            if spec.source is not None:
                in_stride = 4 * columns
            o["input"] = self._place(16 * in_stride) if place is None else place
            o["input_stride"] = in_stride
            x = _values(rng, used.shape)
            for i, row in enumerate(x):
                at = o["input"] + i * in_stride
                if at in self.after:  # stored by an instruction before
                    x[i] = np.frombuffer(self.after[at], np.float32)
                else:
                    self.before[at] = row.tobytes()
        if spec.op is PostOp.NORM:
            shift = self._shift(o, "keys", columns) if spec.shift else None
            results = pointwise.normalise(x, factor, shift, gate=spec.gate)
        elif spec.op is PostOp.ADD:
            results = pointwise.add(x, used, factor)
        elif spec.op is PostOp.STORE:
            results = pointwise.store(used, factor)
        else:
            shift = self._shift(o, "input", columns) if spec.shift else None
            results = pointwise.gelu(used, factor, shift)
        if spec.sums:
            self._sum(results, spec.sums)
        for i, row in enumerate(results):
            self.after[output + i * stride] = row.tobytes()
        return Case(o, y[:, :0] if spec.op is PostOp.NORM else y, g)

    def _shift(self, o: dict[str, int], name: str, columns: int) -> np.ndarray:
        """A vector of shifts in memory."""
        shift = self.rng.normal(0, 1, columns).astype(np.float16)
        shift[self.rng.random(columns) < 0.1] = np.float16(-0.0)
        o[name] = self._place(columns * 2)
        self.before[o[name]] = shift.tobytes()
        return shift

    def _sum(self, results: np.ndarray, mode: int) -> None:
        """By definition, in Python's integers."""
        at = slice(0, results.shape[1])
        if mode == SumMode.BEGIN:
            self.values[at], self.squares[at] = 0, 0
        n = integers(results)
        self.values[at] += n.sum(0)
        self.squares[at] += (n * n).sum(0).astype(np.uint64)

    def _records(self, spec: Spec, o: dict[str, int], used: np.ndarray, factor: Any) -> None:
        heads, fmt = spec.heads, self.config.kv
        tokens = 40
        o["output_stride"] = heads * 64 + 64 * int(self.rng.integers(0, 3))
        o["output"] = self._place(16 * o["output_stride"])
        o["head_stride"] = tokens * 64
        o["keys"], o["values"] = (self._place(heads * tokens * 64) for _ in range(2))
        factor = np.broadcast_to(factor, used.shape[1:])
        for b in range(spec.blocks):
            block = spec.block_first + b
            left, right = (used[:, 128 * b + HEAD * k :][:, :HEAD] for k in range(2))
            if block < heads // 2:
                for k, part in enumerate((left, right)):
                    kappa = factor[128 * b + HEAD * k]
                    found = pointwise.records(part, fmt, "q", kappa)
                    for i, record in enumerate(pack_records(*found, fmt)):
                        at = o["output"] + i * o["output_stride"] + (2 * block + k) * 64
                        self.after[at] = record.tobytes()
                continue
            head = block - heads // 2
            v = pointwise.records(left, fmt, "v")
            keys = pointwise.records(right, fmt, "k")
            sides = {"values": pack_records(*v, fmt), "keys": pack_records(*keys, fmt, v.scales)}
            for side, records in sides.items():
                for i, record in enumerate(records):
                    self.after[o[side] + head * o["head_stride"] + i * 64] = record.tobytes()

    def payload(self, case: Case) -> int:
        """Operands as the unit receives them."""
        word = low = 0
        for item in PAYLOAD_FIELDS[Opcode.POST]:
            word |= case.operands[item.name] << low
            low += 64 if item.kind == "address" else item.width
        return word

    def check(self, memory: AxiMemory) -> None:
        for at, content in self.after.items():
            assert memory.read(at, len(content)) == content, self._difference(memory, at, content)
        written = {
            a for at, content in self.after.items() for a in range(at, at + len(content), 64)
        }
        for address, beats in memory.write_bursts:
            for a in range(address, address + 64 * beats, 64):
                assert a in written, f"wrote at {a:#x}, which belongs to nothing"

    def _difference(self, memory: AxiMemory, at: int, content: bytes) -> str:
        got = np.frombuffer(memory.read(at, len(content)), np.uint16)
        want = np.frombuffer(content, np.uint16)
        wrong = np.flatnonzero(got != want)
        return f"at {at:#x}: words {wrong[:8]} of {len(want)}: {got[wrong[:8]]}, {want[wrong[:8]]}"
