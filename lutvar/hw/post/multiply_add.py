# SPDX-License-Identifier: Apache-2.0
"""`RNE(x + RNE(y * g))` in two forms: LUTs and an integer DSP, or one DSP58 in float32 mode.

STORE and ADD are this alone; GELU passes it before its results become FP16 (contract, 10).
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.hw.units.dspfp32 import DspFp32
from lutvar.hw.units.float_steps import FRACTION
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply

#: Significant bits of an FP16 number.
HALF_BITS = 11
#: Upper bits of a float32 that FP16 numbers need: sign, exponent and ten bits of the fraction.
HALF_AS_FLOAT = 1 + 8 + HALF_BITS - 1


def positive_zero(pattern: Value) -> Value:
    """A float32 pattern, with the sign of zero removed: exact zeros are +0 (contract, 7)."""
    return Cat(pattern[:31], pattern[31] & pattern[FRACTION:31].any())


class MultiplyAdd(wiring.Component):
    """Base: one multiplication and one addition, each rounded.

    Throughput: one value in each cycle.
    """

    X_LAG: int  #: cycles from `y` to its `x`
    LATENCY: int  #: cycles from `y` to its `s`

    y: In(32)  #: float32
    g: In(HALF_AS_FLOAT)  #: what was FP16: the upper bits of its float32, with its `y`
    x: In(32)  #: float32 summand, `X_LAG` cycles after its `y`; +0 for the rounded product itself
    s: Out(32)  #: float32, `LATENCY` cycles after `y`

    def _factor(self) -> Value:
        return Cat(Const(0, 32 - HALF_AS_FLOAT), self.g)


class PortableMultiplyAdd(MultiplyAdd):
    """One DSP and about 430 LUTs."""

    X_LAG = Fp32Multiply.LATENCY
    LATENCY = Fp32Multiply.LATENCY + Fp32Add.LATENCY

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.scale = scale = Fp32Multiply(HALF_BITS)
        m.submodules.add = add = Fp32Add()
        m.d.comb += [
            scale.x.eq(self.y),
            scale.y.eq(self._factor()),
            add.x.eq(self.x),
            add.y.eq(positive_zero(scale.s)),
            self.s.eq(add.s),
        ]
        return m


class DspMultiplyAdd(MultiplyAdd):
    """One DSP58 and 3 LUTs.

    The product's zero keeps its sign here; with a summand that is never -0 no sum shows it.
    """

    X_LAG = 0
    LATENCY = DspFp32.PRODUCT_LATENCY + 1

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.site = site = DspFp32(from_d=False, c_regs=self.LATENCY - 1)
        m.d.comb += [
            site.a.eq(self.y),
            site.b.eq(self._factor()),
            site.c.eq(positive_zero(self.x)),
            self.s.eq(site.s),
        ]
        return m


def multiply_add(config: AcceleratorConfig) -> type[MultiplyAdd]:
    """The form of a configuration (`config.float32`)."""
    return DspMultiplyAdd if config.float32 == "dsp58" else PortableMultiplyAdd
