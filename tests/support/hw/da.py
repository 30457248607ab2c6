# SPDX-License-Identifier: Apache-2.0
"""Operands for the rows of form `da`, run on Verilated rows, against integer matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP
from lutvar.contract.bits import pack_codes
from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.widths import WORDS
from lutvar.hw.matrix.da import DaRecoder, DaRows
from lutvar.hw.matrix.da_design import ENGINES, DaDesign
from support.hw.verilated_unit import UnitSimulator, build_unit

CASES = {
    "fp4": ("E2M1", "E2M1", "DUAL4"),
    "fp6": ("E2M3", "E2M3", "DUAL6"),
    "int4": ("INT4", "INT4", None),
}


def design(name: str, engines: int = ENGINES) -> DaDesign:
    weight, plain, dual = CASES[name]
    return DaDesign(
        get_format(weight), get_format(plain), get_format(dual) if dual else None, engines
    )


class Rows(wiring.Component):
    """Recoder and rows: weight codes in."""

    load_valid: Signal
    load_word: Signal
    load_codes: Signal
    load_dual: Signal
    load_negative: Signal
    start: Signal
    codes: Signal
    flat: Signal

    def __init__(self, design: DaDesign) -> None:
        self.recoder, self.rows = DaRecoder(design), DaRows(design)
        members = dict(self.rows.signature.members)
        del members["weights"]
        members["codes"] = In(len(self.recoder.codes))
        members["flat"] = Out(design.sum_bits * ROW_GROUP)
        del members["sums"]
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.recoder, m.submodules.rows = self.recoder, self.rows
        for name in self.signature.members:
            if name.startswith("load") or name == "start":
                m.d.comb += getattr(self.rows, name).eq(getattr(self, name))
        m.d.comb += [
            self.recoder.codes.eq(self.codes),
            self.rows.weights.eq(self.recoder.operand),
            self.flat.eq(self.rows.sums.as_value()),
        ]
        return m


@dataclass
class Operand:
    """Activation codes [16, 128] with their pass, and the weight vectors [n, 128] that meet it."""

    codes: np.ndarray
    dual: int
    negative: int
    vectors: np.ndarray
    slack: int = 0  #: cycles more than needed before everything that happens

    def sums(self, d: DaDesign) -> np.ndarray:
        """[n, 16]."""
        values = [d.activation(c, self.dual, self.negative) for c in range(d.plain.code_count)]
        weights = [d.weight.decode_int(c) or 0 for c in range(d.weight.code_count)]
        return np.array(weights)[self.vectors] @ np.array(values)[self.codes].T


def integer(codes: np.ndarray, bits: int) -> int:
    return int.from_bytes(pack_codes(codes.reshape(-1).astype(np.uint8), bits).tobytes(), "little")


def run(unit: Rows, library: Path, operands: list[Operand]) -> list[np.ndarray]:
    """Each operand as early as its slack allows, vectors until the next one starts."""
    rows, d = unit.rows, unit.rows.design
    rng = np.random.default_rng(99)
    bits = d.plain.bits
    loads: dict[int, tuple[Operand, int]] = {}
    vectors: dict[int, np.ndarray] = {}
    starts: set[int] = set()
    results: list[list[int]] = []
    start, last = -rows.hold, 0
    for operand in operands:
        first = start + rows.hold + operand.slack
        for word in range(WORDS):
            loads[first + word * (rows.interval + operand.slack)] = (operand, word)
        start = max(max(loads) + rows.settle + operand.slack, last)
        starts.add(start)
        mine = [start + rows.fill + operand.slack + i for i in range(len(operand.vectors))]
        vectors.update(zip(mine, operand.vectors, strict=True))
        results.append(mine)
        last = mine[-1]
    sums: dict[int, np.ndarray] = {}

    async def testbench(ctx: Any) -> None:
        for cycle in range(last + rows.latency + 2):
            load = loads.get(cycle)
            ctx.set(unit.load_valid, load is not None)
            # What does not count is random.
            codes = rng.integers(0, 1 << bits, (ROW_GROUP, LANES))
            word = int(rng.integers(0, WORDS))
            dual, negative = rng.integers(0, 2, 2).tolist()
            if load is not None:
                operand, word = load
                codes = operand.codes[:, LANES * word : LANES * (word + 1)]
                dual, negative = operand.dual, operand.negative
            ctx.set(unit.load_codes, integer(codes, bits))
            ctx.set(unit.load_word, word)
            ctx.set(unit.load_dual, dual)
            ctx.set(unit.load_negative, negative)
            ctx.set(unit.start, cycle in starts)
            vector = vectors.get(cycle + unit.recoder.latency)
            if vector is None:
                vector = rng.integers(0, 1 << bits, GROUP)
            ctx.set(unit.codes, integer(vector, bits))
            if cycle - rows.latency in vectors:
                flat, width = ctx.get(unit.flat), d.sum_bits
                fields = np.array([flat >> row * width & (1 << width) - 1 for row in range(16)])
                sums[cycle - rows.latency] = fields - (fields >> width - 1 << width)
            await ctx.tick()

    simulator = UnitSimulator(unit, library)
    simulator.add_testbench(testbench)
    simulator.run()
    simulator.close()
    return [np.array([sums[cycle] for cycle in mine]) for mine in results]


@cache
def built(name: str) -> tuple[Rows, Path]:
    unit = Rows(design(name))
    return unit, build_unit(unit)


def passes(d: DaDesign) -> list[tuple[int, int]]:
    return [(0, 0), (0, 1), *([(1, 1), (1, 0)] if d.dual else [])]


def extremes(d: DaDesign, rng: np.random.Generator, dual: int, negative: int) -> Operand:
    """Largest sums of both signs, zeros of both signs, single lanes, every weight code."""
    activations = sorted(range(d.plain.code_count), key=lambda c: d.activation(c, dual, negative))
    weights = sorted(range(d.weight.code_count), key=lambda c: d.weight.decode_int(c) or 0)
    low, high, zero = activations[0], activations[-1], 0
    codes = rng.integers(0, d.plain.code_count, (ROW_GROUP, GROUP))
    codes[0], codes[1], codes[3], codes[4] = high, low, zero, d.plain.sign_bit
    codes[2, ::2], codes[2, 1::2] = low, high
    for row, lane in zip(range(5, 9), (0, 1, 64, 127), strict=True):
        codes[row] = zero
        codes[row, lane] = high if row % 2 else low
    # Tables that reach both ends of their range, side by side.
    for number, table in enumerate(d.tables):
        for row in range(9, 12):
            codes[row, list(table.lanes)] = low if number % (row - 7) else high
    codes[12:14] = rng.choice([low, high], (2, GROUP))
    single = np.full((GROUP, GROUP), zero)
    np.fill_diagonal(single, weights[-1])
    single[::2] = np.where(single[::2] == weights[-1], weights[0], zero)
    mixed = np.tile([weights[0], weights[-1]], GROUP // 2)
    constant = np.repeat(np.arange(d.weight.code_count)[:, None], GROUP, axis=1)
    random = rng.integers(0, d.weight.code_count, (40, GROUP))
    return Operand(codes, dual, negative, np.vstack([constant, single, mixed, mixed[::-1], random]))


def check_extremes_and_single_lanes(name: str) -> None:
    unit, library = built(name)
    d, rng = unit.rows.design, np.random.default_rng(3)
    operands = [extremes(d, rng, dual, negative) for dual, negative in passes(d)]
    results = run(unit, library, operands)
    for operand, got in zip(operands, results, strict=True):
        np.testing.assert_array_equal(got, operand.sums(d))
    top = max(int(abs(got).max()) for got in results)
    assert top.bit_length() == d.sum_bits - 1  # the extremes are extreme


def check_uniform_operands_back_to_back(name: str) -> None:
    """All rows change from one end of the range to the other, with vectors until the last cycle
    before an operand starts and from the first cycle after its tables are full."""
    unit, library = built(name)
    d, rng = unit.rows.design, np.random.default_rng(5)
    weights = sorted(range(d.weight.code_count), key=lambda c: d.weight.decode_int(c) or 0)
    ends = np.array([np.full(GROUP, weights[0]), np.full(GROUP, weights[-1])])
    operands = []
    for dual, negative in passes(d):
        codes = sorted(range(d.plain.code_count), key=lambda c: d.activation(c, dual, negative))
        both = np.arange(GROUP) % 2
        for lane_codes in (codes[0], codes[-1], 0, np.where(both, codes[0], codes[-1])):
            filled = np.broadcast_to(lane_codes, (ROW_GROUP, GROUP)).copy()
            between = rng.integers(0, d.weight.code_count, (60, GROUP))
            operands.append(Operand(filled, dual, negative, np.vstack([ends, between, ends])))
    for operand, got in zip(operands, run(unit, library, operands), strict=True):
        np.testing.assert_array_equal(got, operand.sums(d))


def check_random_operands_at_any_pace(name: str) -> None:
    unit, library = built(name)
    d, rng = unit.rows.design, np.random.default_rng(4)
    operands = []
    for slack, count in [(0, 200), (0, 1), (3, 60), (0, 40), (1, 17), (0, 90)]:
        dual, negative = passes(d)[rng.integers(0, len(passes(d)))]
        codes = rng.integers(0, d.plain.code_count, (ROW_GROUP, GROUP))
        vectors = rng.integers(0, d.weight.code_count, (count, GROUP))
        operands.append(Operand(codes, dual, negative, vectors, slack))
    for operand, got in zip(operands, run(unit, library, operands), strict=True):
        np.testing.assert_array_equal(got, operand.sums(d))
