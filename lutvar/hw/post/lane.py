# SPDX-License-Identifier: Apache-2.0
"""What becomes of one float32 result of the matrix unit (contract, 10): sums, and FP16 values."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.float_steps import FRACTION
from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.gelu import GATE_BITS, GeluGate
from lutvar.hw.units.pipeline import delay

#: Significant bits of an FP16 number.
HALF_BITS = 11


def positive_zero(pattern: Value) -> Value:
    """A float32 pattern, with the sign of zero removed: exact zeros are +0 (contract, 7)."""
    return Cat(pattern[:31], pattern[31] & pattern[FRACTION:31].any())


class SumLane(wiring.Component):
    """`RNE(x + RNE(y * g))`: STORE and ADD.

    Throughput: one value in each cycle. Cost: one DSP.
    """

    G_LEAD = Fp16ToFp32.LATENCY
    X_LAG = Fp32Multiply.LATENCY
    LATENCY = Fp32Multiply.LATENCY + Fp32Add.LATENCY

    y: In(32)  #: float32 result of the matrix unit
    g: In(16)  #: FP16 factor, `G_LEAD` cycles before its `y`
    x: In(32)  #: float32 summand, `X_LAG` cycles after its `y`; +0 for the rounded product itself
    sum: Out(32)  #: float32, `LATENCY` cycles after `y`

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.factor = factor = Fp16ToFp32()
        m.submodules.scale = scale = Fp32Multiply(HALF_BITS)
        m.submodules.add = add = Fp32Add()
        m.d.comb += [
            factor.x.eq(self.g),
            scale.x.eq(self.y),
            scale.y.eq(factor.y),
            add.x.eq(self.x),
            add.y.eq(positive_zero(scale.s)),
            self.sum.eq(add.s),
        ]
        return m


class HalfLane(wiring.Component):
    """FP16 of a value, or of its GELU.

    Throughput: one value in each cycle. Cost: two DSPs (interpolation and product) and half a
    BRAM36.
    """

    GELU_LEAD = GeluGate.LATENCY + Fp32Multiply.LATENCY  #: how much longer GELU takes
    DIRECT_LATENCY = Fp32ToFp16.LATENCY + 1
    LATENCY = GELU_LEAD + DIRECT_LATENCY

    y: In(32)  #: float32 result of the matrix unit
    #: comes with `y`: `half` is `fp16(y)` after `DIRECT_LATENCY` cycles, instead of that of the
    #: value whose product is ready now
    direct: In(1)
    half: Out(16)  #: FP16 of `y * gate(y)` after `LATENCY` cycles, or see `direct`

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Rounded to odd, so that the conversion is the only rounding.
        m.submodules.gate = gate = GeluGate()
        m.submodules.product = product = Fp32Multiply(GATE_BITS, odd=True)
        m.submodules.convert = convert = Fp32ToFp16()
        operand = Signal(32, reset_less=True)
        m.d.comb += [
            gate.x.eq(self.y),
            product.x.eq(delay(m, self.y, GeluGate.LATENCY, "y_line")),
            product.y.eq(gate.y),
            convert.x.eq(operand),
            self.half.eq(convert.y),
        ]
        m.d.sync += operand.eq(positive_zero(Mux(self.direct, self.y, product.s)))
        return m
