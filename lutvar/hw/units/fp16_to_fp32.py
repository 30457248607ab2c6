# SPDX-License-Identifier: Apache-2.0
"""FP16 to float32 patterns, exact."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import FRACTION

#: float32's exponent field minus FP16's, for the same value.
OFFSET = 127 - 15


class Fp16ToFp32(wiring.Component):
    """float32 pattern of an FP16 pattern: exact, subnormals and the sign of zero included.

    Latency: `LATENCY` cycles. Throughput: one each cycle. At most 3 LUT levels. About 45 LUTs.
    """

    LATENCY = 2

    x: In(16)  #: FP16 pattern; exponent field 31 is an ordinary exponent
    y: Out(32)  #: float32 pattern; its low 13 bits are constant 0

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: places by which a subnormal's leading one is below the hidden bit, 1 to 10.
        fraction, field = self.x[:10], self.x[10:15]
        shift = Signal(4)
        for place in range(10):  # the last assignment that applies wins
            with m.If(fraction[place]):
                m.d.comb += shift.eq(10 - place)
        negative_1 = Signal(reset_less=True)
        normal_1 = Signal(reset_less=True)
        zero_1 = Signal(reset_less=True)
        fraction_1 = Signal(10, reset_less=True)
        field_1 = Signal(5, reset_less=True)
        shift_1 = Signal(4, reset_less=True)
        m.d.sync += [
            negative_1.eq(self.x[15]),
            normal_1.eq(field.any()),
            zero_1.eq(~self.x[:15].any()),
            fraction_1.eq(fraction),
            field_1.eq(field),
            shift_1.eq(Mux(field.any(), 0, shift)),
        ]

        # 2: shift, which drops the leading one, and pack.
        exponent = Mux(normal_1, field_1 + OFFSET, OFFSET + 1 - shift_1)[:8]
        packed = Cat(Const(0, FRACTION - 10), (fraction_1 << shift_1)[:10], exponent)
        result = Signal(19, reset_less=True)
        m.d.sync += result.eq(Cat(Mux(zero_1, 0, packed)[FRACTION - 10 :], negative_1))
        m.d.comb += self.y.eq(Cat(Const(0, FRACTION - 10), result))
        return m
