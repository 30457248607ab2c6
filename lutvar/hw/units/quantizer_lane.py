# SPDX-License-Identifier: Apache-2.0
"""One lane of the quantizer: an FP16 value and its group's constants to a code.

Contract, section 4, rule `exact`: with `M` the grid integer of the absolute maximum `m`, the
code of `x` is the level nearest to `|x| * M / m`, decided exactly by one integer product with
an entry of a reciprocal table.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.formats import NumberFormat
from lutvar.contract.formats.ties import TieRule, check_ties
from lutvar.contract.two_terms import FRACTION_BITS, PLACES, REST_SHIFT, check_two_terms
from lutvar.hw.port_types import View

from .fp16 import exponent, significand
from .pipeline import delay_stages
from .tables import MAX_RECIPROCAL_BITS, decide, lookup, reciprocals


class QuantizerFormats:
    """The formats that one quantizer serves, checked, and the widths that follow.

    Args:
        plain: single-scale format.
        dual: dual format, or None when there is none.
        ties: rule for values halfway between two levels.
        terms: groups of the plain format may be quantized in two terms.

    Raises:
        ValueError: a format is of the wrong kind, or too fine for the multiplier.
    """

    def __init__(
        self, plain: NumberFormat, dual: NumberFormat | None, ties: TieRule, terms: bool = False
    ) -> None:
        self.plain, self.dual, self.ties = plain, dual, check_ties(ties)
        if plain.dual:
            raise ValueError(f"plain format {plain.name} is dual; give it as the dual one")
        if dual is not None and not dual.dual:
            raise ValueError(f"dual format {dual.name} has a single scale; give it as plain")
        if dual is not None and dual.bits != plain.bits:
            raise ValueError(
                f"{plain.name} has {plain.bits} bits, {dual.name} {dual.bits}; "
                "one quantizer makes codes of one width"
            )
        #: Name of the lane's shared module: quantizers of several formats can be in one design.
        names = [
            plain.name,
            *([] if dual is None else [dual.name]),
            *([ties] * (ties != TieRule.EVEN)),
            *(["terms"] * terms),
        ]
        self.module = "_".join(["quantizer_lane", *names]).lower()
        tops = {plain.scale_top()}
        if dual is not None:
            tops |= {dual.scale_top(False), dual.scale_top(True)}
        #: Distinct values of M; the position selects a reciprocal table.
        self.tops = tuple(sorted(tops))
        largest = self.tops[-1]
        self.reciprocal_bits = reciprocals(largest)[0].bit_length()
        if self.reciprocal_bits > MAX_RECIPROCAL_BITS or plain.bits > 8:
            both = plain.name if dual is None else f"{plain.name} and {dual.name}"
            raise ValueError(
                f"{both}: {plain.bits} bits, absolute maximum at grid integer {largest}; the "
                f"quantizer takes at most 8 bits and {(1 << MAX_RECIPROCAL_BITS - 13) - 1}"
            )
        self.terms = terms
        #: Bits of the magnitude of what term 1 leaves.
        self.rest_bits = 0
        if terms:
            check_two_terms(plain)
            levels = plain.positive.levels
            widest = max(b - a for a, b in pairwise(levels))
            self.rest_bits = (widest << FRACTION_BITS).bit_length()
            self.reciprocal_bits += REST_SHIFT
        #: Bits of floor(2 * y), y <= M.
        self.floor_bits = (2 * largest).bit_length()
        #: Bits of the same before it is shifted by the exponent difference (significands differ by
        #: a factor below 2). A difference of as many bits leaves nothing.
        self.quotient_bits = (4 * largest - 1).bit_length()

    def top(self, dual: bool, negative: bool) -> int:
        """Grid integer that the maximum of a group (of a half, if dual) maps to."""
        fmt = self.dual if dual and self.dual is not None else self.plain
        return fmt.scale_top(negative)


class QuantizerLane(wiring.Component):
    """Code of one value.

    One value in each cycle. At most 4 LUT levels and one short carry chain between registers. The
    multiplier has registers before, inside and after, as a DSP58 wants them.

    With `s` the significands and `d >= 0` the exponent difference, `P = s_x * R` with
    `R = ceil(2 * M * 2**22 / s_m)`; then `f = P >> (22 + d)` is `floor(2 * y)` and bits
    11 .. 21 + d of P are all zero exactly when `2 * y` is an integer (proof in the contract).
    Where `f` is 0, so is the code, whatever the other bits.

    With `formats.terms` the product also gives what the code leaves of the value.
    """

    LATENCY = 5
    REST_LATENCY = 6

    x: Signal  #: in: FP16 pattern, of magnitude at most that of its group's (half's) maximum
    #: in: the group uses the dual format; comes `LATENCY - 1` cycles after `x`, so that all lanes
    #: share one delay
    dual: Signal
    #: in: of the maximum; index 1 is for negative values, 0 for others. In a plain group both are
    #: equal. A zero reciprocal makes every code 0
    reciprocal: View
    exponent: View  #: in: of the maximum, likewise
    code: Signal  #: out: the code, `LATENCY` cycles later
    #: out: FP16 pattern of what the code leaves, `w * 2**-24` of the contract, `REST_LATENCY`
    #: cycles after a plain `x`; only with `formats.terms`
    rest: Signal

    def __init__(self, formats: QuantizerFormats) -> None:
        self.formats = formats
        super().__init__(
            {
                "x": In(16),
                "dual": In(1),
                "reciprocal": In(data.ArrayLayout(unsigned(formats.reciprocal_bits), 2)),
                "exponent": In(data.ArrayLayout(unsigned(5), 2)),
                "code": Out(formats.plain.bits),
                **({"rest": Out(16)} if formats.terms else {}),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt = self.formats

        # 1: operands of the product, exponent difference.
        negative = self.x[15]
        significand_1 = Signal(11, reset_less=True)
        reciprocal_1 = Signal(fmt.reciprocal_bits, reset_less=True)
        difference = Signal(5)
        places = FRACTION_BITS if fmt.terms else 0  # of 2 * y that are kept
        farthest = (1 << (fmt.quotient_bits + places - 1).bit_length()) - 1
        distance_1 = Signal(range(farthest + 1), reset_less=True)
        far_1 = Signal(reset_less=True)
        # A subnormal pattern has the place value of exponent 1.
        field = Cat(exponent(self.x)[0] | (exponent(self.x) == 0), exponent(self.x)[1:])
        m.d.comb += difference.eq(Mux(negative, self.exponent[1], self.exponent[0]) - field)
        m.d.sync += [
            significand_1.eq(significand(self.x)),
            reciprocal_1.eq(Mux(negative, self.reciprocal[1], self.reciprocal[0])),
            distance_1.eq(difference),
            far_1.eq(difference > farthest if fmt.terms else difference >= fmt.quotient_bits),
        ]

        # 2, 3: the product, in the registers of the multiplier.
        product_2 = Signal(11 + fmt.reciprocal_bits, reset_less=True)
        product_3 = Signal.like(product_2, reset_less=True)
        m.d.sync += [product_2.eq(significand_1 * reciprocal_1), product_3.eq(product_2)]
        distance_3 = delay_stages(m, distance_1, 2, "distance", shift_lut=False)
        far_3 = delay_stages(m, far_1, 2, "far", shift_lut=False)

        # 4: floor of 2 * y, and whether anything was lost. The low 11 bits may hold the excess
        # of the rounded-up reciprocal.
        quotient = product_3[PLACES : PLACES + fmt.quotient_bits]
        doubled_4 = Signal(fmt.floor_bits + places, reset_less=True)
        floor_4 = doubled_4[places:]
        tie_4 = Signal(reset_less=True)
        # Where the floor is 0 whatever the product is, the tie does not matter.
        near = distance_3[: (fmt.quotient_bits - 1).bit_length()]
        most = 2 ** len(near) - 1
        lost = Cat(bit & (near > place) for place, bit in enumerate(quotient[:most]))
        m.d.sync += [
            doubled_4.eq(
                Mux(far_3, 0, product_3[PLACES - places : PLACES + fmt.quotient_bits] >> distance_3)
            ),
            tie_4.eq(~(product_3[11:PLACES].any() | lost.any())),
        ]

        # 5: the decision.
        sign_4 = delay_stages(m, negative, self.LATENCY - 1, "sign", shift_lut=False)
        dual_4 = self.dual if fmt.dual is not None else C(0, 1)
        code_5 = Signal(fmt.plain.bits, reset_less=True)
        m.d.sync += code_5.eq(self._decision(floor_4, tie_4, sign_4, dual_4))
        m.d.comb += self.code.eq(code_5)
        if fmt.terms:
            self._rest(m, doubled_4, tie_4, sign_4)
        return m

    def _rest(self, m: Module, doubled: Value, tie: Value, sign: Value) -> None:
        """5, 6: twice `y` less the code's level, of either sign; then its magnitude."""
        fmt = self.formats
        floor = doubled[FRACTION_BITS:]
        above: list[int | None] = []
        for negative in (False, True):
            codes = decide(fmt.plain, negative, fmt.ties)
            levels = [abs(fmt.plain.decode_int(code) or 0) for code in codes]
            above += [(at >> 1) - 2 * level for at, level in enumerate(levels)]
            above += [None] * ((2 << len(floor)) - len(codes))
        bits = fmt.rest_bits + 1 - FRACTION_BITS
        table = [None if n is None else n & (1 << bits) - 1 for n in above]
        rest_5 = Signal(fmt.rest_bits + 1, reset_less=True)
        sign_5 = delay_stages(m, sign, 1, "rest_sign", shift_lut=False)
        rest_6 = Signal(16, reset_less=True)
        m.d.sync += [
            rest_5.eq(Cat(doubled[:FRACTION_BITS], lookup(Cat(tie, floor, sign), table, bits))),
            rest_6.eq(
                Cat(
                    ((rest_5 ^ rest_5[-1].replicate(len(rest_5))) + rest_5[-1])[: fmt.rest_bits],
                    C(0, 15 - fmt.rest_bits), rest_5[-1] ^ sign_5,
                )
            ),
        ]  # fmt: skip
        m.d.comb += self.rest.eq(rest_6)

    def _decision(self, floor: Value, tie: Value, sign: Value, dual: Value) -> Value:
        """Code from the decision tables of each half of each format."""
        fmt = self.formats
        index = Cat(tie, floor)
        size = 1 << len(index)
        table: list[int | None] = []
        kinds: Sequence[NumberFormat] = [f for f in (fmt.plain, fmt.dual) if f is not None]
        for kind in kinds:
            for negative in (False, True):
                entries = decide(kind, negative, fmt.ties)
                table += [*entries, *[None] * (size - len(entries))]
        select = Cat(sign, dual) if fmt.dual is not None else sign
        return lookup(Cat(index, select), table, fmt.plain.bits)
