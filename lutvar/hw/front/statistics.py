# SPDX-License-Identifier: Apache-2.0
"""From a row's sums to its mean and reciprocal standard deviation."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.units.rsqrt import Rsqrt
from lutvar.hw.verilog import place


class RowStatistics(wiring.Component):
    """Mean and `rsqrt(var + eps)` of a row (contract, section 9).

    One row in each cycle. Cost: 2 float32 adders, 4 DSP, half a block memory.
    """

    EPSILON_AT = 2 * Fp32Multiply.LATENCY + Fp32Add.LATENCY + 1
    LATENCY = EPSILON_AT + Fp32Add.LATENCY + Rsqrt.LATENCY

    total: In(32)  #: float32 sum of a row
    squares: In(32)  #: float32 sum of its squares
    valid: In(1)  #: a row's sums are here
    inverse_width: In(32)  #: float32, in the same cycle
    epsilon: In(32)  #: float32, `EPSILON_AT` cycles later
    mean: Out(32)  #: float32, `LATENCY` cycles after `valid`
    root: Out(32)  #: float32, `LATENCY` cycles after `valid`
    done: Out(1)  #: `valid`, `LATENCY` cycles later

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        means, powers, mean_squares = (Fp32Multiply(24) for _ in range(3))
        for name, unit in (("mean", means), ("power", powers), ("own", mean_squares)):
            place(m, platform, name, unit, "fp32_multiply_24")
        subtract, guard = Fp32Add(), Fp32Add()
        place(m, platform, "subtract", subtract, "fp32_add")
        place(m, platform, "guard", guard, "fp32_add")
        m.submodules.rsqrt = rsqrt = Rsqrt()

        variance = Signal(32, reset_less=True)
        m.d.sync += variance.eq(Mux(subtract.s[31], 0, subtract.s))
        history = valid_line(m, self.valid, self.LATENCY, "history")
        m.d.comb += [
            means.x.eq(self.total),
            means.y.eq(self.inverse_width),
            powers.x.eq(self.squares),
            powers.y.eq(self.inverse_width),
            mean_squares.x.eq(means.s),
            mean_squares.y.eq(means.s),
            subtract.x.eq(delay(m, powers.s, Fp32Multiply.LATENCY, "power_line")),
            subtract.y.eq(Cat(mean_squares.s[:31], ~mean_squares.s[31])),
            guard.x.eq(variance),
            guard.y.eq(self.epsilon),
            rsqrt.x.eq(guard.s),
            self.root.eq(rsqrt.y),
            self.mean.eq(delay(m, means.s, self.LATENCY - Fp32Multiply.LATENCY, "mean_line")),
            self.done.eq(history[-1]),
        ]
        return m
