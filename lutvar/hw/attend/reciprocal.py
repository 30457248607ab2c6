# SPDX-License-Identifier: Apache-2.0
"""Reciprocal of a sum of weights: `R = floor(2**(43 + z) / (mu * Sn))`."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.float_steps import normalise_step
from lutvar.hw.units.pipeline import delay, register

from .sizes import RECIPROCAL, SUM, AttentionSizes

LATENCY = 3 + RECIPROCAL


class Reciprocal(wiring.Component):
    """Normalises S to 28 bits and divides, one quotient bit in each stage.

    No handshake; one S in each cycle. S is at least `2**15` (the key with the largest score
    counts `2**15`); of another S the results mean nothing.

    Cost: about 17 x 70 LUTs and flip-flops. One for all rows: they take turns.
    """

    total: Signal  #: in: S
    reciprocal: Signal  #: out: R, `LATENCY` cycles later
    zeros: Signal  #: out: number of zeros above the highest set bit of S; one cycle before R

    def __init__(self, sizes: AttentionSizes) -> None:
        self.sizes = sizes
        super().__init__(
            {"total": In(sizes.sum_bits), "reciprocal": Out(RECIPROCAL), "zeros": Out(4)}
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()

        # 1, 2: normalise; the lowest 15 zeros of the width are never needed.
        mu, _, z = self.sizes.divider
        wide: Value = Cat(Const(0, SUM - self.sizes.sum_bits), self.total)
        wide, fours = normalise_step(m, wide, 4, 4, "by4")
        wide, fours = register(m, wide, "wide4"), register(m, fours, "fours")
        wide, ones = normalise_step(m, wide, 1, 4, "by1")
        wide = register(m, wide, "wide1")
        zeros = register(m, Cat(ones, fours), "zeros_register")

        # 3: the divisor. mu is one less than a power of two.
        width = SUM + z
        divisor = register(m, ((wide << (mu + 1).bit_length() - 1) - wide)[:width], "divisor")

        # The dividend is a power of two: its quotient bits above the first one are 0.
        left: Value = Const(1 << SUM - 2 + z, width)
        quotient: Value = Const(0, 0)
        for step in range(RECIPROCAL):
            doubled = Cat(Const(0, 1), left)
            rest = Signal(width + 2, name=f"rest{step}")
            m.d.comb += rest.eq(doubled - divisor)
            fits = ~rest[-1]
            left = register(m, Mux(fits, rest[:width], doubled[:width]), f"left{step}")
            quotient = register(m, Cat(fits, quotient), f"quotient{step}")
            if step < RECIPROCAL - 1:
                divisor = register(m, divisor, f"divisor{step}")
        m.d.comb += [
            self.reciprocal.eq(quotient),
            self.zeros.eq(delay(m, zeros, RECIPROCAL, "zeros_line")),
        ]
        return m
