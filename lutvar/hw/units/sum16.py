# SPDX-License-Identifier: Apache-2.0
"""Sum of 16 float32 values in the fixed order of the contract."""

from typing import Any

from amaranth.hdl import Module, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.verilog import place

from .fp32_add import Fp32Add

VALUES = 16


class Sum16(wiring.Component):
    """`tree16` of the contract, section 7: adjacent pairs, four levels.

    Latency: `LATENCY` cycles. Throughput: one each cycle. Cost: 15 `Fp32Add`.
    """

    LATENCY = 4 * Fp32Add.LATENCY

    z: In(data.ArrayLayout(unsigned(32), VALUES))  #: 16 float32 patterns
    s: Out(32)  #: float32 pattern of their sum

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        values = [self.z[k] for k in range(VALUES)]
        level = 0
        while len(values) > 1:
            sums = []
            for pair in range(len(values) // 2):
                adder = Fp32Add()
                place(m, platform, f"add_{level}_{pair}", adder, "fp32_add")
                m.d.comb += [adder.x.eq(values[2 * pair]), adder.y.eq(values[2 * pair + 1])]
                sums.append(adder.s)
            values = sums
            level += 1
        m.d.comb += self.s.eq(values[0])
        return m
