# SPDX-License-Identifier: Apache-2.0
"""float32 to the integers that are summed: sign and magnitude, rounded to nearest even, limited."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.column_sums import BITS, FRACTION, LIMIT

from .float_steps import BIAS
from .float_steps import FRACTION as SIGNIFICAND
from .pipeline import delay, register

MAGNITUDE = BITS - 1  #: bits of a magnitude
#: Exponent field from which on a value is above the limit. A value of a field e below it is its
#: significand, 24 bits, shifted right by `_LARGE - e`, in units of 2**-10.
_LARGE = BIAS + MAGNITUDE - FRACTION

assert LIMIT == (1 << MAGNITUDE) - 1 and SIGNIFICAND == MAGNITUDE


class Fp32ToFixed(wiring.Component):
    """`min(RNE(|x| * 2**10), 2**23 - 1)` and the sign of x (contract, section 14).

    Latency: `LATENCY` cycles. Throughput: one each cycle. At most 5 LUT levels. About 110 LUTs.
    """

    LATENCY = 5

    x: In(32)  #: float32 pattern; a subnormal counts as zero, infinities as large numbers
    magnitude: Out(MAGNITUDE)  #: the integer without its sign
    negative: Out(1)  #: x is below zero; undefined where the magnitude is 0

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # 1: how far to shift.
        field = self.x[SIGNIFICAND:31]
        distance = (_LARGE - field)[:9]
        above = distance[8] | (distance == 0)
        far = distance[5:8].any()
        shift = register(m, distance[:5] | far.replicate(5), "shift")
        above = register(m, above, "above")
        # The last bit is a guard bit; what leaves it, only "not zero" matters.
        value: Value = register(m, Cat(0, self.x[:SIGNIFICAND], field.any()), "significand")
        sticky: Value | None = None
        # 2, 3, 4: shift by 0 to 24 in eights, 0 to 6 in twos, 0 or 1.
        for number, (low, bits) in enumerate(((3, 2), (1, 2), (0, 1)), start=2):
            places, unit = shift[low : low + bits], 1 << low
            lost = Cat(
                value[unit * step : unit * (step + 1)].any() & (places > step)
                for step in range((1 << bits) - 1)
            ).any()
            sticky = register(m, lost if sticky is None else sticky | lost, f"sticky_{number}")
            shifted = Signal(len(value), name=f"shifted_{number}")
            with m.Switch(places):
                for step in range(1 << bits):
                    with m.Case(step):
                        m.d.comb += shifted.eq(value >> step * unit)
            value = register(m, shifted, f"value_{number}")
            shift = register(m, shift[:low], f"shift_{number}") if low else shift
        assert sticky is not None
        # 5: round, limit.
        up = value[0] & (sticky | value[1])
        rounded = value[1:] + up
        limited = delay(m, above, 3, "above_line") | rounded[MAGNITUDE:].any()
        m.d.comb += [
            self.magnitude.eq(
                register(m, rounded[:MAGNITUDE] | limited.replicate(MAGNITUDE), "magnitude_now")
            ),
            self.negative.eq(delay(m, self.x[31], self.LATENCY, "negative_line")),
        ]
        return m
