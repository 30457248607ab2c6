# SPDX-License-Identifier: Apache-2.0
"""float32 to FP16 patterns: round to nearest even, gradual underflow, saturation."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import FRACTION

#: Exponent field of 2**-14, the smallest normal FP16 number.
SMALLEST = 127 - 14
#: Exponent field of 2**16, above all FP16 numbers.
ABOVE = 127 + 16
LARGEST = 0x7BFF  #: pattern of 65504
#: A shift by as many places leaves nothing, not even a guard bit.
FAR = 12


class Fp32ToFp16(wiring.Component):
    """FP16 pattern of a float32 pattern, rounded once (contract, section 7).

    Latency: `LATENCY` cycles. Throughput: one each cycle. At most 5 LUT levels. About 75 LUTs.
    """

    LATENCY = 3

    x: In(32)  #: float32 pattern; a subnormal counts as zero, infinities as large numbers
    #: FP16 pattern, round to nearest even with gradual underflow, saturated to +-65504. The sign
    #: stays, that of a zero too
    y: Out(16)

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: how far below the normal range.
        field = self.x[FRACTION:31]
        below = field < SMALLEST
        distance = (SMALLEST - field)[:8]
        shift_1 = Signal(4, reset_less=True)
        field_1 = Signal(5, reset_less=True)
        field_2 = Signal(5, reset_less=True)
        above_1 = Signal(reset_less=True)
        above_2 = Signal(reset_less=True)
        negative_1 = Signal(reset_less=True)
        negative_2 = Signal(reset_less=True)
        significand_1 = Signal(FRACTION + 1, reset_less=True)
        m.d.sync += [
            shift_1.eq(Mux(below, Mux(distance > FAR, FAR, distance), 0)),
            field_1.eq(Mux(below, 0, field - (SMALLEST - 1))),
            above_1.eq(field >= ABOVE),
            negative_1.eq(self.x[31]),
            significand_1.eq(Cat(self.x[:FRACTION], field.any())),
        ]

        # 2: shift; of what leaves only "not zero" matters. The window is 11 bits and a guard bit.
        window, rest = significand_1[FAR:], significand_1[:FAR]
        lost = Cat(bit & (shift_1 > place) for place, bit in enumerate(window))
        kept_2 = Signal(len(window), reset_less=True)
        sticky_2 = Signal(reset_less=True)
        m.d.sync += [
            kept_2.eq(window >> shift_1),
            sticky_2.eq(rest.any() | lost.any()),
            field_2.eq(field_1),
            above_2.eq(above_1),
            negative_2.eq(negative_1),
        ]

        # 3: round; a carry out of the fraction increments the exponent, from subnormal to normal
        # too: an absent hidden bit and field 0 belong together.
        up = kept_2[0] & (sticky_2 | kept_2[1])
        rounded = (Cat(kept_2[1:11], field_2) + up)[:15]
        saturate = above_2 | rounded[10:].all()
        m.d.sync += self.y.eq(Cat(Mux(saturate, Const(LARGEST, 15), rounded), negative_2))
        return m
