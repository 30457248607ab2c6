# SPDX-License-Identifier: Apache-2.0
"""One of the 16 lanes: what becomes of one float32 result of the matrix unit (contract, 10)."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.float_steps import FRACTION, delay
from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.gelu import GATE_BITS, GeluGate

#: Significant bits of an FP16 number.
HALF_BITS = 11


def positive_zero(pattern: Value) -> Value:
    """A float32 pattern, with the sign of zero removed: exact zeros are +0 (contract, 7)."""
    return Cat(pattern[:31], pattern[31] & pattern[FRACTION:31].any())


class PostLane(wiring.Component):
    """The three ways of a value, each of its own fixed latency.

    Members:
        y: float32 result of the matrix unit.
        g: FP16 factor, ``G_LEAD`` cycles before its ``y``.
        x: float32 summand, ``X_LAG`` cycles after its ``y``.
        sum: ``RNE(x + RNE(y * g))``, ``SUM_LATENCY`` cycles after ``y``; with x = +0 the rounded
            product itself.
        gelu: what ``half`` is; constant while values are under way.
        half: FP16 of ``y * gate(y)`` after ``GELU_LATENCY`` cycles, or of y after ``HALF_LATENCY``.

    Throughput: one value in each cycle. Cost: three DSPs (two multiplications by factors, one
    interpolation) and half a BRAM36.
    """

    G_LEAD = Fp16ToFp32.LATENCY
    X_LAG = Fp32Multiply.LATENCY
    SUM_LATENCY = Fp32Multiply.LATENCY + Fp32Add.LATENCY
    HALF_LATENCY = Fp32ToFp16.LATENCY + 1
    GELU_LATENCY = GeluGate.LATENCY + Fp32Multiply.LATENCY + HALF_LATENCY

    y: In(32)
    g: In(16)
    x: In(32)
    gelu: In(1)
    sum: Out(32)
    half: Out(16)

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

        # Rounded to odd, so that the conversion is the only rounding.
        m.submodules.gate = gate = GeluGate()
        m.submodules.product = product = Fp32Multiply(GATE_BITS, odd=True)
        m.submodules.convert = convert = Fp32ToFp16()
        chosen = Signal(32, reset_less=True)
        m.d.comb += [
            gate.x.eq(self.y),
            product.x.eq(delay(m, self.y, GeluGate.LATENCY, "y_line")),
            product.y.eq(gate.y),
            convert.x.eq(chosen),
            self.half.eq(convert.y),
        ]
        m.d.sync += chosen.eq(positive_zero(Mux(self.gelu, product.s, self.y)))
        return m
