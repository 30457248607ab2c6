# SPDX-License-Identifier: Apache-2.0
"""One value of the result: `fp16(A * R * 2**x)`."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.pipeline import delay, register

from .sizes import LIMIT, RECIPROCAL, AttentionSizes

LATENCY = 8
#: Cycle in which R and the limit are here.
OPERAND_CYCLE = 1

_LARGEST = 0x7BFF
_SIGNIFICAND = 12  #: hidden bit, fraction, guard
_PORT = 26  #: unsigned bits of the wide port of a multiplier


class ResultLane(wiring.Component):
    """Multiplies a weighted sum by the reciprocal and rounds to FP16, to nearest even.

    No handshake; one value in each cycle.

    Cost: 2 DSP, about 200 LUTs.
    """

    total: Signal  #: in: A, two's complement; cycle 0
    reciprocal: Signal  #: in: R; cycle `OPERAND_CYCLE`
    limit: Signal  #: in: the largest shift (`AttentionSizes.limit_offset`); cycle `OPERAND_CYCLE`
    #: out: FP16 pattern, saturated; cycle `LATENCY`. A negative result that rounds to zero is -0,
    #: an exact zero +0
    value: Signal

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        super().__init__(
            {
                "total": In(sizes.magnitude_bits + 1),
                "reciprocal": In(RECIPROCAL),
                "limit": In(LIMIT),
                "value": Out(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()

        # 1: magnitude.
        negative = self.total[-1]
        magnitude = register(
            m,
            ((self.total ^ negative.replicate(len(self.total))) + negative)[:-1][
                : self.sizes.magnitude_bits
            ],
            "magnitude",
        )
        negative = delay(m, negative, LATENCY - 1, "negative_line")

        # 2, 3: product, in two multipliers where A is wider than a port.
        low = register(m, magnitude[:_PORT] * self.reciprocal, "product_low")
        if len(magnitude) > _PORT:
            high = register(m, magnitude[_PORT:] * self.reciprocal, "product_high")
            product = register(
                m, Cat(low[:_PORT], low[_PORT:] + high)[: self.sizes.product_bits], "product"
            )
        else:
            product = register(m, low, "product")
        limit = delay(m, self.limit, 2, "limit_line")

        # 4, 5, 6: shift left until the highest bit is set or the limit is reached. Only what can
        # still become fraction or guard is kept; of the rest, whether it is zero.
        product, sticky, limit = self._step(m, product, None, limit, 16, _SIGNIFICAND + 15)
        product, sticky, limit = self._step(m, product, sticky, limit, 4, _SIGNIFICAND + 3)
        product, sticky, limit = self._step(m, product, sticky, limit, 1, _SIGNIFICAND)

        # 7: round. What is left of the limit is the exponent less one. A carry out of the fraction
        # increments the exponent.
        hidden, guard = product[-1], product[0]
        up = guard & (sticky | product[1])
        exponent = Mux(hidden, limit + 1, 0)
        rounded = register(m, (Cat(product[1:-1], exponent) + up)[: 11 + LIMIT], "rounded")

        # 8: saturate.
        over = rounded[10 + 5 :].any() | rounded[10:15].all()
        m.d.sync += self.value.eq(Cat(Mux(over, _LARGEST, rounded[:15]), negative))
        return m

    @staticmethod
    def _step(
        m: Module, value: Value, sticky: Value | None, limit: Value, unit: int, width_out: int
    ) -> tuple[Signal, Signal, Signal]:
        """Shift left by 0..3 units and keep `width_out` bits at the top; the lesser limit."""
        width = len(value)
        zeros: Any = Const(3, 2)
        for i in reversed(range(3)):
            block = value[max(0, width - unit * (i + 1)) : max(0, width - unit * i)]
            zeros = Mux(block.any(), i, zeros)
        digit = (unit - 1).bit_length()
        allowed = Mux(limit[digit + 2 :].any(), 3, limit[digit : digit + 2])
        count = Signal(2, name=f"count{unit}")
        result = Signal(width_out, name=f"kept{unit}", reset_less=True)
        rest = Signal(name=f"sticky{unit}", reset_less=True)
        left = Signal(LIMIT, name=f"limit{unit}", reset_less=True)
        m.d.comb += count.eq(Mux(zeros < allowed, zeros, allowed))
        m.d.sync += left.eq(limit - (count << digit))
        with m.Switch(count):
            for k in range(4):
                moved = Cat(Const(0, k * unit), value)[:width]
                if width < width_out:
                    moved = Cat(Const(0, width_out - width), moved)
                lost = moved[: len(moved) - width_out].any()
                with m.Default() if k == 3 else m.Case(k):
                    m.d.sync += [
                        result.eq(moved[len(moved) - width_out :]),
                        rest.eq(lost if sticky is None else lost | sticky),
                    ]
        return result, rest, left
