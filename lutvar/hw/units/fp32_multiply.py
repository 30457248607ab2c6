# SPDX-License-Identifier: Apache-2.0
"""float32 multiplication, round to nearest even (or to odd), pipelined: one DSP58."""

from amaranth.hdl import Cat, Const, Module, Mux, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import BIAS, FRACTION
from .pipeline import delay, register

MIN_BITS, MAX_BITS = 2, FRACTION + 1


class Fp32Multiply(wiring.Component):
    """`s = RNE(x * y)` for float32 patterns, IEEE 754 within the range of the contract.

    Args:
        bits: significant bits of `y`, hidden one included, 2 to 24; its other fraction bits are
            ignored. 11 for what was FP16, 19 for a reciprocal root, 24 for any float32.
        odd: instead of rounding to nearest, truncate and set the last bit if anything was lost.
            Rounding such a result to at most 22 bits is the same as rounding the exact product.

    A subnormal counts as zero; a product with zero is a zero with the sign that IEEE 754 gives.
    Infinities, NaNs, overflow and underflow are not handled; none arises in the accelerator
    (contract, section 7).

    Latency: `LATENCY` cycles. Throughput: one each cycle. Cost: one DSP58, 80 to 115 LUTs.

    Raises ValueError for other numbers of bits.
    """

    LATENCY = 5

    x: In(32)  #: float32 pattern
    y: In(32)  #: float32 pattern
    s: Out(32)  #: float32 pattern

    def __init__(self, bits: int, *, odd: bool = False) -> None:
        if not MIN_BITS <= bits <= MAX_BITS:
            raise ValueError(f"bits is {bits}; it must be from {MIN_BITS} to {MAX_BITS}")
        self.bits, self.odd = bits, odd
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: the multiplier's input registers; biased exponent of a product from 2 on.
        x, y = self.x, self.y
        significand = register(m, Cat(x[:FRACTION], Const(1, 1)), "significand")
        fraction = register(m, y[FRACTION + 1 - self.bits : FRACTION], "fraction")
        exponent = register(m, (x[23:31] + y[23:31] - (BIAS - 1))[:8], "exponent")
        present = register(m, x[23:31].any() & y[23:31].any(), "present")
        exponent = delay(m, exponent, 2, "exponent_line")
        present = delay(m, present, 3, "present_line")
        negative = delay(m, x[31] ^ y[31], self.LATENCY - 1, "negative_line")

        # 2, 3: the product. y's hidden one goes through the DSP's adder, which makes 24 x 24 bits
        # fit the 26 x 23 unsigned bits of one multiplier.
        product = register(m, significand * fraction, "product_m")
        hidden = register(m, Cat(Const(0, self.bits - 1), significand), "hidden_m")
        width = FRACTION + 1 + self.bits
        product = register(m, (product + hidden)[:width], "product_p")

        # 4: normalise by at most one place, decide the rounding.
        high = product[-1]
        mantissa = Mux(high, product[width - FRACTION - 1 : -1], product[width - FRACTION - 2 : -2])
        low = product[: width - FRACTION - 2]  # below the guard bit in both cases
        last, guard = product[width - FRACTION - 1], product[width - FRACTION - 2]
        after = product[width - FRACTION - 3] if width > FRACTION + 2 else Const(0, 1)
        below = product[: max(0, width - FRACTION - 3)]
        scaled = register(m, (exponent - ~high)[:8], "scaled")
        if self.odd:
            lost = Mux(high, guard | low.any(), low.any())
            mantissa = register(m, Cat(mantissa[0] | lost, mantissa[1:]), "kept")
            up: Value = Const(0, 1)
        else:
            mantissa = register(m, mantissa, "kept")
            up = register(
                m, Mux(high, guard & (low.any() | last), after & (below.any() | guard)), "up"
            )

        # 5: round. A carry out of the fraction increments the exponent.
        rounded = (Cat(mantissa, scaled) + up)[:31]
        m.d.sync += self.s.eq(Cat(Mux(present, rounded, 0), negative))
        return m
