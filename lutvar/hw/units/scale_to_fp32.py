# SPDX-License-Identifier: Apache-2.0
"""A weight scale with its power of two as float32, exact."""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import FRACTION
from .fp16_to_fp32 import Fp16ToFp32
from .pipeline import delay


class ScaleToFp32(wiring.Component):
    """`y = ws * 2**e` as a float32 pattern: exact, from `2**-56` to below `2**48`, or +0.

    Latency: `LATENCY` cycles. Throughput: one each cycle. About 60 LUTs.
    """

    LATENCY = Fp16ToFp32.LATENCY + 1

    ws: In(16)  #: FP16 pattern without sign; exponent 31 is ordinary, subnormals are exact
    e: In(signed(6))  #: power of two, -32..31
    y: Out(32)  #: float32 pattern; its low 13 bits are constant 0

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.convert = convert = Fp16ToFp32()
        m.d.comb += convert.x.eq(Cat(self.ws[:15], 0))
        late = delay(m, self.e, Fp16ToFp32.LATENCY, "e_line")[:6].as_signed()
        field = convert.y[FRACTION:31]
        result = Signal(18, reset_less=True)  # the zero has an exponent of zero
        shifted = Mux(field.any(), (field + late)[:8], 0)
        m.d.sync += result.eq(Cat(convert.y[FRACTION - 10 : FRACTION], shifted))
        m.d.comb += self.y[FRACTION - 10 : 31].eq(result)
        return m
