# SPDX-License-Identifier: Apache-2.0
"""float32 addition, round to nearest even, pipelined."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import FRACTION, normalise_step
from .pipeline import delay, register

#: Guard, round and sticky bit below the fraction: enough for one correct rounding.
_EXTRA = 3
#: Significand with hidden bit and extra bits.
_WIDTH = FRACTION + 1 + _EXTRA


class Fp32Add(wiring.Component):
    """`s = RNE(x + y)` for float32 patterns, IEEE 754 within the range of the contract.

    Subnormals count as zero and a result below `2**-126` becomes zero; infinities, NaNs and
    overflow are not handled. None of these arises in the accelerator (contract, section 5). `x +
    (-x)` is +0, `-0 + -0` is -0.

    Latency: `LATENCY` cycles. Throughput: one each cycle. At most six LUT levels a stage.
    """

    LATENCY = 9

    x: In(32)  #: float32 pattern
    y: In(32)  #: float32 pattern
    s: Out(32)  #: float32 pattern

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: which magnitude is larger, and how far apart the exponents are, both ways.
        below = register(m, self.x[:31] < self.y[:31], "below")
        x, y = register(m, self.x, "x_1"), register(m, self.y, "y_1")
        x_over_y = register(m, (self.x[23:31] - self.y[23:31])[:8], "x_over_y")
        y_over_x = register(m, (self.y[23:31] - self.x[23:31])[:8], "y_over_x")

        # 2: swap, so that the difference of magnitudes is not negative.
        large, small = Mux(below, y, x), Mux(below, x, y)
        distance = Mux(below, y_over_x, x_over_y)
        shift = register(m, distance[:5] | distance[5:].any().replicate(5), "shift")
        big = register(m, _significand(large), "big_2")
        little = register(m, _significand(small), "little_2")
        exponent: Value = register(m, large[23:31], "exponent_2")
        subtract: Value = register(m, x[31] ^ y[31], "subtract_2")
        sign = register(m, large[31], "sign_2")
        both = register(m, x[31] & y[31], "both_2")  # sign of a sum that is zero

        # 3, 4: align. What is shifted out leaves its trace in the sticky bit.
        wide: Value = Cat(Const(0, _EXTRA), little)
        sticky: Value = Const(0, 1)
        for stage, bits in ((3, (4, 3)), (4, (2, 1, 0))):
            lost = [sticky]
            for bit in bits:
                step = 1 << bit
                lost.append(shift[bit] & wide[:step].any())
                wide = Mux(shift[bit], wide[step:], wide)
            wide = register(m, wide[:_WIDTH], f"wide_{stage}")
            sticky = register(m, Cat(*lost).any(), f"sticky_{stage}")
            shift = register(m, shift, f"shift_{stage}")
            big = register(m, big, f"big_{stage}")
            subtract = register(m, subtract, f"subtract_{stage}")
        aligned = Cat(wide[0] | sticky, wide[1:])

        # 5: add or subtract; the one that completes the two's complement comes in as a carry.
        operand = Cat(Const(0, _EXTRA), big)
        total = Cat(Const(1, 1), operand) + Cat(subtract, aligned ^ subtract.replicate(_WIDTH))
        top = total[_WIDTH + 1] & ~subtract
        value: Value = register(m, Cat(total[1 : _WIDTH + 1], top), "value_5")

        # 6, 7, 8: normalise to the highest of 28 bits.
        left: Value = Const(0, 1)
        for unit, ways, name in ((8, 4, "by8"), (2, 4, "by2"), (1, 2, "by1")):
            value, count = normalise_step(m, value, unit, ways, name)
            value = register(m, value, f"value_{name}")
            left = register(m, left + count * unit, f"left_{name}")
        exponent = delay(m, exponent, 6, "exponent_line")

        # 9: round and pack. A carry out of the fraction increments the exponent.
        guard, rest, mantissa = value[_EXTRA], value[:_EXTRA], value[_EXTRA + 1 :]
        up = guard & (rest.any() | mantissa[0])
        biased = exponent + 1 - left
        packed = Cat(mantissa[:FRACTION], biased[:8]) + up
        sign = delay(m, sign, 6, "sign_line")
        both = delay(m, both, 6, "both_line")
        zero = Cat(Const(0, 31), both & ~mantissa[-1])
        # Without reset, which would come as one more level into the condition for zero.
        total = Signal(32, reset_less=True)
        m.d.sync += total.eq(Mux(mantissa[-1] & (biased > 0), Cat(packed[:31], sign), zero))
        m.d.comb += self.s.eq(total)
        return m


def _significand(pattern: Value) -> Value:
    """24-bit significand; zero for zero and for a subnormal."""
    normal = pattern[23:31].any()
    return Cat(pattern[:FRACTION] & normal.replicate(FRACTION), normal)
