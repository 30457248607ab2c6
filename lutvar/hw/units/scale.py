# SPDX-License-Identifier: Apache-2.0
"""Scaling of a dot product: `p = RNE_f32(D * m * ws * 2**e)`, one rounding of the exact product.

Contract, section 5. The two scales and the sum are multiplied as integers (11 x 11 bits, then 22
bits times the sum's magnitude: one DSP58 each); the product is normalised and rounded once.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .float_steps import BIAS, FRACTION, normalise_step
from .pipeline import delay, register

MIN_SUM_BITS, MAX_SUM_BITS = 5, 24
#: Value of a significand's lowest bit when the exponent field is 0: 2**-24, for each of the scales.
_UNIT = -25


def _unpack(pattern: Value) -> tuple[Value, Value]:
    """Significand and exponent field of an extended FP16 pattern; a subnormal has exponent 1."""
    field = pattern[10:15]
    hidden = field.any()
    return Cat(pattern[:10], hidden), Cat(field[0] | ~hidden, field[1:])


class ScaleMultiply(wiring.Component):
    """Multiplies a sum by two scales and a power of two, and rounds to float32.

    Latency: `LATENCY` cycles. Throughput: one each cycle. Cost: 2 DSP and about 200 LUTs.
    """

    LATENCY = 10

    d: Signal  #: in: signed sum; `-2**(bits-1)` does not occur (a sum of products is symmetric)
    m: Signal  #: in: FP16 pattern without sign; exponent 31 is ordinary, subnormals are exact
    ws: Signal  #: in: FP16 pattern without sign, likewise
    e: Signal  #: in: power of two, -32..31
    #: out: float32 pattern; +0 when the product is zero. A result below `2**-126` or above the
    #: largest float32 cannot arise from values that the contract allows
    p: Signal

    def __init__(self, sum_bits: int) -> None:
        if not MIN_SUM_BITS <= sum_bits <= MAX_SUM_BITS:
            raise ValueError(
                f"a sum of {sum_bits} bits; {MIN_SUM_BITS} to {MAX_SUM_BITS} fit the multiplier "
                "and leave something to round"
            )
        self.sum_bits = sum_bits
        super().__init__(
            {
                "d": In(signed(sum_bits)),
                "m": In(16),
                "ws": In(16),
                "e": In(signed(6)),
                "p": Out(32),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()

        # 1: unpack. These registers are the input registers of the first multiplier.
        significand_m, exponent_m = _unpack(self.m)
        significand_w, exponent_w = _unpack(self.ws)
        significand_m = register(m, significand_m, "significand_m")
        significand_w = register(m, significand_w, "significand_w")
        negative = self.d[-1]
        magnitude = register(m, Mux(negative, -self.d, self.d)[: self.sum_bits - 1], "magnitude")
        exponent = register(m, exponent_m + exponent_w + self.e, "exponents")

        # 2, 3: product of the scales; 4, 5: times the sum. Two registers each, as in a DSP58.
        scales = register(m, significand_m * significand_w, "scales_m")
        scales = register(m, scales, "scales_p")
        magnitude = delay(m, magnitude, 2, "magnitude_line")
        product = register(m, magnitude * scales, "product_m")
        product = register(m, product, "product_p")
        width = len(product)

        # Biased exponent of a product whose highest bit is set; 8 bits, the rest cancels.
        offset = BIAS + 2 * _UNIT + width - 1
        exponent = register(m, (delay(m, exponent, 3, "exponent_line") + offset)[:8], "biased")
        negative = delay(m, negative, 9, "negative_line")

        # 6, 7, 8: normalise.
        for unit, name in ((16, "by16"), (4, "by4"), (1, "by1")):
            product, count = normalise_step(m, product, unit, 4, name)
            exponent = register(m, (exponent - count * unit)[:8], f"exponent_{name}")
            product = register(m, product, f"product_{name}")

        # 9: decide the rounding; 10: round. A carry out of the fraction increments the exponent.
        mantissa, rest = product[width - FRACTION - 1 :], product[: width - FRACTION - 1]
        up = register(m, rest[-1] & (rest[:-1].any() | mantissa[0]), "up")
        packed = register(m, Cat(mantissa[:FRACTION], exponent), "packed")
        present = register(m, mantissa[-1], "present")
        rounded = Cat((packed + up)[:31], negative)
        m.d.sync += self.p.eq(Mux(present, rounded, Const(0, 32)))
        return m
