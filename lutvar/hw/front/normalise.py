# SPDX-License-Identifier: Apache-2.0
"""One lane of LayerNorm with AdaLN."""

from typing import Any

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16


class NormaliseLane(wiring.Component):
    """`fp16((x - mean) * root * scale + shift)`, each step rounded to float32.

    Operands come when they are needed, some cycles after `x` (contract, section 9).

    One value in each cycle. Cost: 2 float32 adders, 2 DSP.
    """

    MEAN_AT = Fp16ToFp32.LATENCY
    ROOT_AT = MEAN_AT + Fp32Add.LATENCY
    _SCALED_FROM = ROOT_AT + Fp32Multiply.LATENCY
    SCALE_AT = _SCALED_FROM - Fp16ToFp32.LATENCY
    _SHIFTED_FROM = _SCALED_FROM + Fp32Multiply.LATENCY
    SHIFT_AT = _SHIFTED_FROM - Fp16ToFp32.LATENCY
    LATENCY = _SHIFTED_FROM + Fp32Add.LATENCY + Fp32ToFp16.LATENCY

    x: In(16)  #: FP16 pattern
    mean: In(32)  #: float32, `MEAN_AT` cycles after `x`
    root: In(32)  #: float32 from `Rsqrt`, `ROOT_AT` cycles after `x`
    scale: In(16)  #: FP16 pattern, `SCALE_AT` cycles after `x`
    shift: In(16)  #: FP16 pattern, `SHIFT_AT` cycles after `x`
    z: Out(16)  #: FP16 pattern, `LATENCY` cycles after `x`

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.x_in = x_in = Fp16ToFp32()
        m.submodules.scale_in = scale_in = Fp16ToFp32()
        m.submodules.shift_in = shift_in = Fp16ToFp32()
        m.submodules.centre = centre = Fp32Add()
        m.submodules.divide = divide = Fp32Multiply(19)
        m.submodules.multiply = multiply = Fp32Multiply(11)
        m.submodules.add = add = Fp32Add()
        m.submodules.z_out = z_out = Fp32ToFp16()
        m.d.comb += [
            x_in.x.eq(self.x),
            centre.x.eq(x_in.y),
            centre.y.eq(Cat(self.mean[:31], ~self.mean[31])),
            divide.x.eq(centre.s),
            divide.y.eq(self.root),
            scale_in.x.eq(self.scale),
            multiply.x.eq(divide.s),
            multiply.y.eq(scale_in.y),
            shift_in.x.eq(self.shift),
            add.x.eq(multiply.s),
            add.y.eq(shift_in.y),
            z_out.x.eq(add.s),
            self.z.eq(z_out.y),
        ]
        return m
