# SPDX-License-Identifier: Apache-2.0
"""Dot product of q and k in multipliers: two products of the sum in each 27 x 24 multiplier.

`(qa + qb * 2**17) * (kb + ka * 2**17)` has `qa * ka + qb * kb` at bit 17. Eight of these in a
chain of adders stay within 17 bits there; what the bits below borrow is their sign.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import NumberFormat
from lutvar.hw.units.pipeline import delay

from .records import decode_codes

STEP = 17  #: place of the sum of products
CHAIN = 8  #: multipliers in a chain
CHAINS = HEAD_DIM // (2 * CHAIN)
LATENCY = 1 + CHAIN + 3  #: of `PackedDot`, from the operands of the first multipliers


class PackedOperand(wiring.Component):
    """Codes to operands of `PackedDot`; multiplier i of a chain gets its own i cycles late.

    Args:
        key: operand of the keys; else of the queries.
    """

    LATENCY = 1

    codes: Signal  #: in: 64 codes, element 0 lowest
    #: out: for multiplier i of a chain, two integers of `bits` bits for each chain, `1 + i` cycles
    #: later. The upper one is less by one where the lower one is negative, so that both only need
    #: to be put side by side
    operand: Signal

    def __init__(self, fmt: NumberFormat, bits: int, key: bool) -> None:
        self.fmt, self.bits, self.key = fmt, bits, key
        super().__init__({"codes": In(HEAD_DIM * fmt.bits), "operand": Out(HEAD_DIM * bits)})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits = self.bits
        grid = decode_codes(m, self.codes, self.fmt, bits)
        for i in range(CHAIN):
            parts = []
            for chain in range(CHAINS):
                at = 2 * (chain * CHAIN + i)
                low, high = grid[at * bits :][:bits], grid[(at + 1) * bits :][:bits]
                if self.key:
                    low, high = high, low
                parts += [low, (high - low[-1])[:bits]]
            width = 2 * CHAINS * bits
            line = delay(m, Cat(*parts), 1 + i, f"operand{i}")
            m.d.comb += self.operand[i * width : (i + 1) * width].eq(line)
        return m


class PackedDot(wiring.Component):
    """Exact dot product of 64 elements. Cost: 32 DSP58, about 130 LUTs."""

    activations: Signal  #: in: operand of the query (`PackedOperand`)
    weights: Signal  #: in: operand of the key (`PackedOperand`)
    #: out: D, `LATENCY` cycles after the operands of the first multipliers; one in each cycle
    sum: Signal

    def __init__(self, bits: int, sum_bits: int) -> None:
        self.bits, self.latency = bits, LATENCY
        width = HEAD_DIM * bits
        super().__init__(
            {"activations": In(width), "weights": In(width), "sum": Out(signed(sum_bits))}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits, width_out = self.bits, 2 * STEP  # what lies above the sum is not needed
        sums = []

        def operand(side: Value, i: int, chain: int) -> Value:
            pair = side[2 * (i * CHAINS + chain) * bits :]
            low, high = pair[:bits], pair[bits : 2 * bits]
            return Cat(low, low[-1].replicate(STEP - bits), high).as_signed()

        for chain in range(CHAINS):
            total: Any = 0
            for i in range(CHAIN):
                product = Signal(
                    signed(2 * (STEP + bits)), name=f"product{chain}_{i}", reset_less=True
                )
                stage = Signal(signed(width_out), name=f"total{chain}_{i}", reset_less=True)
                m.d.sync += [
                    product.eq(
                        operand(self.activations, i, chain) * operand(self.weights, i, chain)
                    ),
                    stage.eq(product + total),
                ]
                total = stage
            # The lower sum is below 2**16: its sign is bit 16.
            corrected = Signal(signed(STEP), name=f"chain{chain}", reset_less=True)
            m.d.sync += corrected.eq(total[STEP:] + total[STEP - 1])
            sums.append(corrected)
        while len(sums) > 1:
            level = len(sums)
            merged = []
            for i in range(0, level, 2):
                value = sums[i] + sums[i + 1]
                stage = Signal(value.shape(), name=f"sum{level}_{i}", reset_less=True)
                m.d.sync += stage.eq(value)
                merged.append(stage)
            sums = merged
        m.d.comb += self.sum.eq(sums[0])
        return m
