# SPDX-License-Identifier: Apache-2.0
"""What stands before and behind `MultiplyAdd` in a lane: products with gates, rounding to FP16."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.gelu import GATE_BITS, GeluGate
from lutvar.hw.units.pipeline import delay

from .multiply_add import positive_zero


class GeluLane(wiring.Component):
    """`y * gate(y)`, rounded to odd: what follows rounds as if it had the exact product.

    Throughput: one value in each cycle. Cost: two DSPs (interpolation and product) and half a
    BRAM36; with `silu` a whole one.

    Args:
        silu: SiLU's gate, too (`GeluGate`).
    """

    LATENCY = GeluGate.LATENCY + Fp32Multiply.LATENCY

    y: Signal  #: in: float32 result of the matrix unit, or of `MultiplyAdd`
    t: Signal  #: out: float32, `LATENCY` cycles after `y`
    norm: Signal  #: in: y is NORM's, with `y` (`silu` only)
    gate: Signal  #: in: with `norm`: SiLU's gate, or else `t` is `y` (`silu` only)

    def __init__(self, silu: bool = False) -> None:
        self.silu = silu
        ports = {"y": In(32), "t": Out(32)}
        if silu:
            ports |= {"norm": In(1), "gate": In(1)}
        super().__init__(ports)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.gate = gate = GeluGate(self.silu)
        if self.silu:
            m.d.comb += [gate.other.eq(self.norm), gate.one.eq(~self.gate)]
        m.submodules.product = product = Fp32Multiply(GATE_BITS, odd=True)
        m.d.comb += [
            gate.x.eq(self.y),
            product.x.eq(delay(m, self.y, GeluGate.LATENCY, "y_line")),
            product.y.eq(gate.y),
            self.t.eq(product.s),
        ]
        return m


class HalfLane(wiring.Component):
    """FP16 of one of two values, rounded once.

    Throughput: one value in each cycle. About 95 LUTs.
    """

    LATENCY = Fp32ToFp16.LATENCY + 1

    y: In(32)  #: float32 result of the matrix unit, or of NORM
    scaled: In(32)  #: float32 result of `MultiplyAdd`
    direct: In(1)  #: convert `y`, not `scaled`
    half: Out(16)  #: FP16 pattern, `LATENCY` cycles later

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.convert = convert = Fp32ToFp16()
        operand = Signal(32, reset_less=True)
        m.d.sync += operand.eq(positive_zero(Mux(self.direct, self.y, self.scaled)))
        m.d.comb += [convert.x.eq(operand), self.half.eq(convert.y)]
        return m
