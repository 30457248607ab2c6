# SPDX-License-Identifier: Apache-2.0
"""What the multiplier and the adder of a DSP58 in float32 mode compute, without registers."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import BIAS, FRACTION

#: Bits below the fraction that decide the rounding of a sum: guard, round and sticky.
_EXTRA = 3
_SUM = FRACTION + 1 + _EXTRA + 1  #: bits of a sum of significands, carry included


class Fp32Product(wiring.Component):
    """`z = RNE(x * y)` for float32 patterns, combinational.

    Subnormals count as zero, a result below `2**-126` is a zero with the product's sign.
    Infinities, NaNs and overflow are not modelled; none arises (contract, section 7).
    A model for simulators: dozens of LUT levels in gates.
    """

    x: In(32)  #: float32 pattern
    y: In(32)  #: float32 pattern
    z: Out(32)  #: float32 pattern, in the same cycle

    def elaborate(self, platform: object) -> Module:
        m = Module()
        x, y, one = self.x, self.y, Const(1, 1)
        product = Signal(2 * FRACTION + 2)
        high = Signal()
        up = Signal()
        present = Signal()
        exponent = Signal(signed(10))
        packed = Signal(signed(FRACTION + 11))
        m.d.comb += [
            product.eq(Cat(x[:FRACTION], one) * Cat(y[:FRACTION], one)),
            high.eq(product[-1]),
            exponent.eq(x[23:31] + y[23:31] - BIAS + high),
        ]
        mantissa = Mux(high, product[FRACTION + 1 : -1], product[FRACTION:-2])
        guard = Mux(high, product[FRACTION], product[FRACTION - 1])
        below = product[: FRACTION - 1].any() | (high & product[FRACTION - 1])
        m.d.comb += [
            up.eq(guard & (below | mantissa[0])),
            # A carry out of the fraction increments the exponent.
            packed.eq(Cat(mantissa, exponent).as_signed() + up),
            present.eq(x[23:31].any() & y[23:31].any() & (packed[FRACTION:].as_signed() > 0)),
            self.z.eq(Cat(Mux(present, packed[:31], 0), x[31] ^ y[31])),
        ]
        return m


class Fp32Sum(wiring.Component):
    """`z = RNE(x + y)` for float32 patterns, combinational.

    Subnormals count as zero, a result below `2**-126` is a zero with the sum's sign.
    `x + (-x)` is +0, `-0 + -0` is -0. Infinities, NaNs and overflow are not modelled.
    A model for simulators, as `Fp32Product`.
    """

    x: In(32)  #: float32 pattern
    y: In(32)  #: float32 pattern
    z: Out(32)  #: float32 pattern, in the same cycle

    def elaborate(self, platform: object) -> Module:
        m = Module()
        swap = Signal()
        subtract = Signal()
        big = Signal(32)
        little = Signal(32)
        m.d.comb += [
            swap.eq(self.x[:31] < self.y[:31]),
            big.eq(Mux(swap, self.y, self.x)),
            little.eq(Mux(swap, self.x, self.y)),
            subtract.eq(big[31] ^ little[31]),
        ]
        wide = Signal(2 * _SUM)
        lost = Signal()
        distance = Signal(8)
        shift = Signal(range(_SUM + 1))
        total = Signal(_SUM)
        shifted = Signal(_SUM)
        left = Signal(range(_SUM))

        def significand(pattern: Signal) -> Cat:
            normal = pattern[23:31].any()
            return Cat(Const(0, _EXTRA), Mux(normal, pattern[:FRACTION], 0), normal)

        # What is shifted out leaves its trace in the lowest bit.
        m.d.comb += [
            distance.eq(big[23:31] - little[23:31]),
            shift.eq(Mux(distance > _SUM, _SUM, distance)),
            wide.eq(Cat(Const(0, _SUM), significand(little)) >> shift),
            lost.eq(wide[:_SUM].any()),
        ]
        aligned = Cat(wide[_SUM] | lost, wide[_SUM + 1 :])
        m.d.comb += total.eq(Mux(subtract, significand(big) - aligned, significand(big) + aligned))
        for place in range(_SUM):  # the last assignment that applies wins: the highest set bit
            with m.If(total[place]):
                m.d.comb += left.eq(_SUM - 1 - place)
        m.d.comb += shifted.eq(total << left)
        mantissa, rest = shifted[_EXTRA + 1 : -1], shifted[: _EXTRA + 1]
        exponent = Signal(signed(10))
        packed = Signal(signed(FRACTION + 11))
        present = Signal()
        m.d.comb += [
            exponent.eq(big[23:31] + 1 - left),
            packed.eq(
                Cat(mantissa, exponent).as_signed() + (rest[-1] & (rest[:-1].any() | mantissa[0]))
            ),
            present.eq(packed[FRACTION:].as_signed() > 0),
            self.z.eq(
                Mux(
                    total.any(),
                    Cat(Mux(present, packed[:31], 0), big[31]),
                    Cat(Const(0, 31), big[31] & little[31]),
                )
            ),
        ]
        return m
