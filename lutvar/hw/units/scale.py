# SPDX-License-Identifier: Apache-2.0
"""Scale a group sum: ``p = RNE_f32(D * m * ws * 2**e)`` (contract, section 5).

The product of three significands is an exact integer, so there is one rounding, at the end.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .fp32_add import Fp32Round, register, shift_left_steps

_SIGNIFICAND = 11  #: FP16 significand with its hidden bit
_STEPS = (32, 16, 8, 4, 2, 1)  #: shifts that normalise any product


def significand(pattern: Value) -> Value:
    """11-bit significand of an FP16 pattern; subnormals have no hidden bit, exponent 31 is
    ordinary."""
    return Cat(pattern[:10], pattern[10:15].any())


def exponent(pattern: Value) -> Value:
    """Exponent field, 1 for a subnormal: the value is ``significand * 2**(exponent - 25)``."""
    return Cat(pattern[10] | ~pattern[10:15].any(), pattern[11:15])


class ScaleMultiply(wiring.Component):
    """Float32 pattern of the scaled group sum, ``LATENCY`` cycles later; one value a cycle.

    Members:
        d: In, signed group sum of ``sum_bits`` bits.
        m: In, FP16 pattern of the activation scale (extended range, sign bit 0).
        ws: In, FP16 pattern of the weight scale (sign bit 0).
        e: In, signed exponent of the layer, -32..31.
        p: Out, float32 pattern; +0 when the sum or a scale is 0.

    Two integer products (11 x 11, then up to 19 x 22) between registers: two DSP58. Then
    normalising in three
    stages of two steps and :class:`Fp32Round`.
    """

    LATENCY = 5 + 3 + Fp32Round.LATENCY

    def __init__(self, sum_bits: int) -> None:
        if not 2 <= sum_bits <= 25:
            raise ValueError(f"group sums of {sum_bits} bits; 2 to 25 fit the multiplier")
        self.sum_bits = sum_bits
        super().__init__(
            {
                "d": In(signed(sum_bits)),
                "m": In(16),
                "ws": In(16),
                "e": In(signed(8)),
                "p": Out(32),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # 1: magnitude of the sum, significands. |most negative| needs all sum_bits bits, unsigned.
        magnitude = register(m, Mux(self.d[-1], -self.d, self.d)[: self.sum_bits], "magnitude")
        negative = register(m, self.d[-1], "negative")
        row, column = (
            register(m, significand(v), n) for v, n in ((self.m, "row"), (self.ws, "column"))
        )
        exponents = register(m, exponent(self.m) + exponent(self.ws), "exponents")
        layer = register(m, self.e, "layer")
        # 2, 3: product of the scales, with the register inside the DSP.
        scale = register(m, register(m, row * column, "scale_m"), "scale_p")
        magnitude = register(m, register(m, magnitude, "magnitude2"), "magnitude3")
        total = register(m, register(m, (exponents + layer).as_signed(), "total2"), "total3")
        negative = register(m, register(m, negative, "negative2"), "negative3")
        # 4, 5: product with the sum. Exact.
        product = register(m, register(m, magnitude * scale, "product_m"), "product_p")
        total = register(m, register(m, total, "total4"), "total5")
        negative = register(m, register(m, negative, "negative4"), "negative5")

        # 6..8: leading one to the top. value = product * 2**(total - 50).
        width = len(product)
        steps = tuple(step for step in _STEPS if step < width)
        biased = register_free(m, (total + (127 - 50 + width - 1)).as_signed(), "biased")
        value: Value = product
        for stage in range(3):
            part = steps[len(steps) * stage // 3 : len(steps) * (stage + 1) // 3]
            value, by = shift_left_steps(m, value, part, f"norm{stage}")
            value = register(m, value, f"normal{stage}")
            biased = register(m, (biased - by).as_signed(), f"biased{stage}")
            negative = register(m, negative, f"negative_n{stage}")
        m.submodules.round = finish = Fp32Round(width)
        m.d.comb += [
            finish.fraction.eq(value),
            finish.exponent.eq(biased),
            finish.sign.eq(negative),
            finish.zero.eq(~value[-1]),
            self.p.eq(finish.y),
        ]
        return m


def register_free(m: Module, value: Value, name: str) -> Signal:
    """A named wire, so that widths stay visible in the netlist."""
    out = Signal(value.shape(), name=name)
    m.d.comb += out.eq(value)
    return out
