# SPDX-License-Identifier: Apache-2.0
"""Scale of the second term of a group: an exact quotient by a constant, rounded once."""

from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.two_terms import FRACTION_BITS, REST_SHIFT, REST_THRESHOLD

from .pipeline import delay_stages, register
from .quantizer_lane import QuantizerFormats


class SecondScale(wiring.Component):
    """`RNE_fp16(m_w * m / (M * 2**9))` (contract, section 4) and the place of `m_w`.

    Keeps the maxima `m` of the groups that may come back. One group in each cycle. Cost: two
    multipliers, of 11 by 11 and 22 by 23 bits.
    """

    LATENCY = 8

    write: Signal  #: in: `maximum` is that of the group in `slot`, to be kept
    maximum: Signal  #: in: `m`, 15-bit pattern
    rest: Signal  #: in: `m_w` of the group in `slot`, an integer
    slot: Signal  #: in: place of the group
    pattern: Signal  #: out: fraction of `m_w` brought to 11 bits, exponent field 1; a cycle later
    shift: Signal  #: out: bits that it was brought up by, 7 cycles later
    live: Signal  #: out: the group is no zero group in term 2, with `shift`
    scale: Signal  #: out: the scale's pattern if it is none, with `shift`

    def __init__(self, formats: QuantizerFormats, slots: int) -> None:
        self.formats, self.slots = formats, slots
        super().__init__(
            {
                "write": In(1),
                "maximum": In(15),
                "rest": In(formats.rest_bits),
                "slot": In(range(slots)),
                "pattern": Out(15),
                "shift": Out(range(REST_SHIFT + 1)),
                "live": Out(1),
                "scale": Out(16),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        top = self.formats.plain.scale_top()
        twos = (top & -top).bit_length() - 1
        odd = top >> twos
        below = odd.bit_length()

        # 1: both maxima.
        m.submodules.maxima = maxima = memory.Memory(
            shape=15, depth=self.slots, init=[], attrs={"ram_style": "distributed"}
        )
        write, read = maxima.write_port(), maxima.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(self.write),
            write.addr.eq(self.slot),
            write.data.eq(self.maximum),
            read.addr.eq(self.slot),
        ]
        first_1 = register(m, read.data, "first")
        rest_1 = register(m, self.rest, "rest_1")

        # 2: leading zeros, at most those of the threshold.
        shift = Signal(range(REST_SHIFT + 1))
        aligned = Signal(11)
        wide = Signal(11)
        m.d.comb += [wide.eq(rest_1), shift.eq(REST_SHIFT), aligned.eq(wide << REST_SHIFT)]
        for zeros in reversed(range(REST_SHIFT)):
            with m.If(wide[10 - zeros]):
                m.d.comb += [shift.eq(zeros), aligned.eq(wide << zeros)]
        m.d.comb += self.pattern.eq(Cat(aligned[:10], C(1, 5)))
        shift_2 = register(m, shift, "shift_2")
        some_2 = register(m, rest_1 >= REST_THRESHOLD, "some_2")
        aligned_2 = register(m, aligned, "aligned_2")
        first_2 = register(m, first_1, "first_2")

        # 3, 4: the product. 5, 6: its multiple, whose upper bits are the quotient's.
        product_3 = register(m, aligned_2 * Cat(first_2[:10], C(1, 1)), "product_3")
        product_4 = register(m, product_3, "product_4")
        factor = -(-(1 << 22 + below) // odd)
        multiple_5 = register(m, product_4 * C(factor), "multiple_5")
        multiple_6 = register(m, multiple_5, "multiple_6")

        # 7: 11 bits, of which the first is set. The quotient has 20 - log2(odd) bits or up to two
        # more, so there are three places.
        least = 20 - (below - 1) - (odd & odd - 1 != 0)
        quotient = multiple_6[22:]  # `below` bits of it are the fraction
        tops = [quotient[below + least + k] for k in (1, 2)]
        up: Value = Mux(tops[1], 2, tops[0])
        kept: list[Value] = []
        for k in range(3):
            end = below + least + k + 1  # of the significand
            kept.append(Cat(quotient[: end - 12].any(), quotient[end - 12 : end]))
        window = Mux(tops[1], kept[2], Mux(tops[0], kept[1], kept[0]))
        window_7 = register(m, window, "window_7")  # sticky, guard, 11 bits
        # Exponent field: units of m are 2**(field - 25), of m_w 2**-shift, of the quotient's
        # leading bit 2**(least + up).
        constant = least - FRACTION_BITS - 1 - twos - 10
        field = Signal(signed(8))
        exponent_6 = delay_stages(m, first_2[10:], 4, "exponent")
        shift_6 = delay_stages(m, shift_2, 4, "shift")
        m.d.comb += field.eq(exponent_6 - shift_6 + up + constant)
        field_7 = Signal(5, reset_less=True)
        live_7 = Signal(reset_less=True)
        some_6 = delay_stages(m, some_2, 4, "some")
        # A zero group has kept a maximum below the normal numbers.
        m.d.sync += [
            field_7.eq(field[:5]),
            live_7.eq(some_6 & (field > 0) & exponent_6.any()),
        ]
        m.d.comb += [
            self.shift.eq(delay_stages(m, shift_6, 1, "shift_last")),
            self.live.eq(live_7),
            self.scale.eq(
                Cat(window_7[2:12], field_7) + (window_7[1] & (window_7[0] | window_7[2]))
            ),
        ]
        return m
