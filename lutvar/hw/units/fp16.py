# SPDX-License-Identifier: Apache-2.0
"""Conversions between FP16 patterns and fixed point, exact in, rounded once out.

Patterns are *extended* FP16 (contract, section 1): exponent field 31 is an ordinary exponent and
there are no infinities or NaNs. Fixed point counts units of 2**-24, the smallest subnormal.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

#: Two's-complement width of any pattern in units of 2**-24: 2047 * 2**30 and a sign.
FIXED_BITS = 42
#: Bits that a sum of 128 values grows by; the transform divides by 2**7 again.
GROWTH = 7
SUM_BITS = FIXED_BITS + GROWTH

TO_FIXED_LATENCY = 3
FROM_SUM_LATENCY = 4


def exponent(pattern: Value) -> Value:
    """The exponent field, 5 bits."""
    return pattern[10:15]


def significand(pattern: Value) -> Value:
    """The 11-bit significand: hidden bit (absent in subnormal patterns) and fraction."""
    return Cat(pattern[:10], exponent(pattern).any())


class ToFixed(wiring.Component):
    """FP16 pattern to fixed point, optionally negated.

    Latency 3, one value in each cycle; at most 4 LUT levels (shifter), one 42-bit carry chain.
    """

    x: In(16)  #: FP16 pattern
    flip: In(1)  #: invert the sign
    y: Out(signed(FIXED_BITS))  #: value in units of 2**-24, two's complement, exact

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        field = exponent(self.x)

        negative_1 = Signal(reset_less=True)
        negative_2 = Signal(reset_less=True)
        significand_1 = Signal(11, reset_less=True)
        shift_1 = Signal(5, reset_less=True)
        magnitude_2 = Signal(FIXED_BITS - 1, reset_less=True)
        y_3 = Signal(signed(FIXED_BITS), reset_less=True)
        m.d.sync += [
            negative_1.eq(self.x[15] ^ self.flip),
            significand_1.eq(significand(self.x)),
            # A subnormal pattern has the place value of exponent 1.
            shift_1.eq(Mux(field == 0, 0, field - 1)),
            negative_2.eq(negative_1),
            magnitude_2.eq(significand_1 << shift_1),
            # One adder: the exclusive-or joins the adder's LUTs.
            y_3.eq((magnitude_2 ^ negative_2.replicate(FIXED_BITS)) + negative_2),
        ]
        m.d.comb += self.y.eq(y_3)
        return m


class FromSum(wiring.Component):
    """Sum of 128 fixed-point values to the FP16 pattern of sum / 128, round to nearest even.

    Latency 4, one value in each cycle; at most 5 LUT levels, one carry chain of 48 bits.

    How: the leading one is brought to bit 47 by a coarse shift of whole bytes and a fine one of
    bits. Both stop at a total of 30, which leaves the place value of the smallest subnormal, so
    that normal and subnormal results round in the same way.
    """

    #: sum in units of 2**-24, two's complement, of magnitude at most 2047 * 2**37
    x: In(signed(SUM_BITS))
    #: FP16 pattern of `x * 2**-31`, with gradual underflow. An exact zero is +0; a negative value
    #: that rounds to zero is -0, as in IEEE 754
    y: Out(16)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        width = SUM_BITS - 1

        # 1: sign and magnitude.
        negative_1 = Signal(reset_less=True)
        magnitude = Signal(width, reset_less=True)
        sign = self.x[-1]
        m.d.sync += [
            negative_1.eq(sign),
            magnitude.eq((self.x ^ sign.replicate(SUM_BITS)) + sign),
        ]

        # 2: coarse shift by 0, 8, 16 or 24 bits. Of the result only the 19 bits that can still
        # reach the significand or its guard bit are kept; the others only matter as "not zero".
        negative_2 = Signal(reset_less=True)
        sticky_2 = Signal(reset_less=True)
        coarse = Signal(2)
        coarse_2 = Signal(2, reset_less=True)
        window = Signal(19, reset_less=True)
        below = width - len(window)
        with m.If(magnitude[40:48].any()):
            m.d.comb += coarse.eq(0)
        with m.Elif(magnitude[32:40].any()):
            m.d.comb += coarse.eq(1)
        with m.Elif(magnitude[24:32].any()):
            m.d.comb += coarse.eq(2)
        with m.Else():
            m.d.comb += coarse.eq(3)
        with m.Switch(coarse):
            for step in range(4):
                with m.Case(step):
                    low = below - 8 * step
                    m.d.sync += [
                        window.eq(magnitude[low : low + len(window)]),
                        sticky_2.eq(magnitude[:low].any()),
                    ]
        m.d.sync += [negative_2.eq(negative_1), coarse_2.eq(coarse)]

        # 3: fine shift by the leading zeros of the top byte, 0 to 7, but 6 after the largest
        # coarse shift: 24 + 6 = 30.
        negative_3 = Signal(reset_less=True)
        sticky_3 = Signal(reset_less=True)
        fine = Signal(3)
        aligned = Signal(len(window), reset_less=True)
        shift_3 = Signal(5, reset_less=True)
        top = Cat(*reversed(window[11:]))  # bit 0 is the most significant
        with m.Switch(top):
            for zeros in range(7):
                with m.Case("-" * (7 - zeros) + "1" + "0" * zeros):
                    m.d.comb += fine.eq(zeros)
            with m.Default():
                m.d.comb += fine.eq(Mux(coarse_2 == 3, 6, 7))
        m.d.sync += [
            negative_3.eq(negative_2),
            sticky_3.eq(sticky_2),
            aligned.eq(window << fine),
            shift_3.eq(Cat(fine, coarse_2)),
        ]

        # 4: round. A significand with its hidden bit has exponent field 31 - shift; without one it
        # is subnormal, field 0. A carry out of the fraction increments the exponent, as it should.
        y_4 = Signal(16, reset_less=True)
        hidden, guard, rest = aligned[18], aligned[7], aligned[:7].any() | sticky_3
        up = guard & (rest | aligned[8])
        m.d.sync += y_4.eq(
            Cat((Cat(aligned[8:18], Mux(hidden, ~shift_3, 0)) + up)[:15], negative_3)
        )
        m.d.comb += self.y.eq(y_4)
        return m
