# SPDX-License-Identifier: Apache-2.0
"""One query row of the score phase: dot products, scaled and rounded, and their maximum."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.units.pipeline import delay
from lutvar.hw.verilog import place

from .score_form import ScoreForm
from .sizes import EXPONENT, SCORE, SIGNIFICAND, AttentionSizes

_DOUBLED = SCORE + 1  #: bits of a score with one more fraction bit
_AFTER_COARSE = _DOUBLED + 15  #: what a shift of up to 15 can still reach
_AFTER_MIDDLE = _DOUBLED + 3


class ScoreRow(wiring.Component):
    """`t = floor(D * s_q * s_k * 2**10 + 1/2)` of one row, saturated to 19 bits.

    No handshake; one key in each cycle. A key's operand is here in cycle `lag`.

    Cost: a dot product of 64 lanes, 2 DSP (of 27 x 18 bits), about 150 LUTs.
    """

    key: Signal  #: in: operand of the K codes (`ScoreForm.make_operands`), cycle `lag`
    query: Signal  #: in: operand of q codes
    query_load: Signal  #: in: `query` is used for the keys from the next cycle on
    significand: Signal  #: in: of the key's (or query's) scale, cycle `scale_cycle`
    exponent: Signal  #: in: of the same scale, in the same cycle
    scale_load: Signal  #: in: the scale is a query's; used for the keys from the next cycle on
    t: Signal  #: out: the score, cycle `latency`
    update: Signal  #: in: `t` is of a key; cycle `latency`
    first: Signal  #: in: `t` is of the first key of a block; cycle `latency`
    maximum: Signal  #: out: of the scores so far, from one cycle after `update`

    def __init__(self, sizes: AttentionSizes, form: ScoreForm) -> None:
        self.sizes, self.form, self.lag = sizes, form, sizes.lag(form)
        self.scale_cycle = sizes.dot_latency - 2
        self.latency = sizes.dot_latency + 6
        query_bits, key_bits = form.operand_bits
        super().__init__(
            {
                "key": In(key_bits),
                "query": In(query_bits),
                "query_load": In(1),
                "significand": In(SIGNIFICAND),
                "exponent": In(EXPONENT),
                "scale_load": In(1),
                "t": Out(signed(SCORE)),
                "update": In(1),
                "first": In(1),
                "maximum": Out(signed(SCORE)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        dot = self.form.make_dot()
        if dot.latency != self.form.latency:
            raise ValueError(f"the dot product takes {dot.latency} cycles")
        place(m, platform, "dot", dot, f"attend_dot{self.form.module}")
        query = Signal(len(self.query), reset_less=True)
        significand = Signal(SIGNIFICAND, reset_less=True)
        exponent = Signal(EXPONENT, reset_less=True)
        steps = self.form.load_steps
        part = len(query) // steps
        for step in range(steps):
            here = slice(step * part, (step + 1) * part)
            with m.If(delay(m, self.query_load, step, f"query_load{step}", reset=True)):
                m.d.sync += query[here].eq(self.query[here])
        with m.If(self.scale_load):
            m.d.sync += [significand.eq(self.significand), exponent.eq(self.exponent)]
        m.d.comb += [dot.activations.eq(query), dot.weights.eq(self.key)]

        # Product of the scales in two registers, as in a DSP; ready together with D.
        scale_m = Signal(2 * SIGNIFICAND, reset_less=True)
        scale = Signal(2 * SIGNIFICAND, reset_less=True)
        # Score and a half: P * 2**24 >> (63 - exponents).
        shift_early = Signal(EXPONENT + 1, name="shift", reset_less=True)
        m.d.sync += [
            scale_m.eq(significand * self.significand),
            scale.eq(scale_m),
            shift_early.eq(~(exponent + self.exponent)),
        ]
        # D has one bit more than a port takes: for the lowest one the multiplier's adder adds half
        # the scale.
        odd = dot.sum[0]
        width = len(dot.sum) - 1 + 2 * SIGNIFICAND
        product_m = Signal(signed(width), reset_less=True)
        half = Signal(2 * SIGNIFICAND - 1, reset_less=True)
        upper = Signal(signed(width), reset_less=True)
        m.d.sync += [
            product_m.eq(dot.sum[1:].as_signed() * Cat(scale, Const(0, 1)).as_signed()),
            half.eq(Mux(odd, scale[1:], 0)),
            upper.eq(product_m + Cat(half, Const(0, 1)).as_signed()),
        ]
        product = Cat(delay(m, odd & scale[0], 2, "lowest"), upper)
        shift = delay(m, shift_early, 3, "shift_line")

        # Left by 24, right by 0, 16, 32 or 48. A value too large for what is kept saturates.
        sign = product[-1]
        wide = Cat(Const(0, 24), product)
        coarse, over = self._shift(m, wide, sign, shift[4:], 16, _AFTER_COARSE, "coarse")
        sign = delay(m, sign, 1, "sign1")
        shift = delay(m, shift[:4], 1, "shift1")
        middle, over = self._shift(m, coarse, sign, shift[2:], 4, _AFTER_MIDDLE, "middle", over)
        sign = delay(m, sign, 1, "sign2")
        shift = delay(m, shift[:2], 1, "shift2")
        fine, over = self._shift(m, middle, sign, shift, 1, _DOUBLED, "fine", over)
        sign = delay(m, sign, 1, "sign3")

        # Round half up, and saturate.
        rounded = Signal(SCORE + 1)
        top = Cat((~sign).replicate(SCORE - 1), sign)
        m.d.comb += rounded.eq((fine.as_signed() + 1) >> 1)
        carried = ~sign & rounded[SCORE - 1]
        m.d.sync += self.t.eq(Mux(over | carried, top, rounded[:SCORE]))
        with m.If(self.update & (self.first | (self.t > self.maximum))):
            m.d.sync += self.maximum.eq(self.t)
        return m

    @staticmethod
    def _shift(
        m: Module,
        value: Any,
        sign: Any,
        count: Any,
        unit: int,
        width_out: int,
        name: str,
        over: Any = None,
    ) -> tuple[Signal, Signal]:
        """Arithmetic shift right by 0..3 units into `width_out` bits; whether bits were lost."""
        result = Signal(width_out, name=name, reset_less=True)
        lost = Signal(name=f"{name}_over", reset_less=True)
        with m.Switch(count):
            for k in range(4):
                moved = value[k * unit :]
                if len(moved) < width_out:
                    moved = Cat(moved, sign.replicate(width_out - len(moved)))
                above = moved[width_out - 1 :]
                differs = (above ^ sign.replicate(len(above))).any()
                with m.Default() if k == 3 else m.Case(k):
                    m.d.sync += [
                        result.eq(moved[:width_out]),
                        lost.eq(differs if over is None else differs | over),
                    ]
        return result, lost
