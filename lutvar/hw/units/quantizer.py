# SPDX-License-Identifier: Apache-2.0
"""LUT quantizer: groups of 128 FP16 values to low-bit codes and a scale, without a divider.

Contract, section 4, rule ``exact``: with ``M`` the grid integer of the absolute maximum ``m``, the
code of ``x`` is the level nearest to ``|x| * M / m``, decided exactly by one integer product with
an entry of a reciprocal table.
"""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.shared import place
from lutvar.quant.formats import NumberFormat
from lutvar.quant.formats.ties import TieRule, check_ties

from .elastic import GroupStore, OutputQueue, beat_layout, beats_per_group, delayed
from .fp16 import exponent, significand
from .tables import MAX_RECIPROCAL_BITS, PLACES, decide, lookup, reciprocals, rescaled

MIN_NORMAL = 0x0400  #: pattern of 2**-14; a smaller maximum makes a zero group


def code_layout(lanes: int, bits: int) -> data.StructLayout:
    """One beat of codes. The scales are those of the beat's group, equal in all its beats."""
    return data.StructLayout(
        {
            "codes": data.ArrayLayout(unsigned(bits), lanes),
            "scale": 16,
            "scale_neg": 16,
            "dual": 1,
            "last": 1,
        }
    )


class QuantizerFormats:
    """The formats that one quantizer serves, checked, and the widths that follow.

    Args:
        plain: single-scale format.
        dual: dual format, or None when there is none.
        ties: rule for values halfway between two levels.

    Raises:
        ValueError: a format is of the wrong kind, or too fine for the multiplier.
    """

    def __init__(self, plain: NumberFormat, dual: NumberFormat | None, ties: TieRule) -> None:
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
        tops = {plain.scale_top()}
        if dual is not None:
            tops |= {dual.scale_top(False), dual.scale_top(True)}
        #: Distinct values of M; the position selects a reciprocal table.
        self.tops = tuple(sorted(tops))
        largest = self.tops[-1]
        self.reciprocal_bits = reciprocals(largest)[0].bit_length()
        if self.reciprocal_bits > MAX_RECIPROCAL_BITS or plain.bits > 8:
            names = plain.name if dual is None else f"{plain.name} and {dual.name}"
            raise ValueError(
                f"{names}: {plain.bits} bits, absolute maximum at grid integer {largest}; the "
                f"quantizer takes at most 8 bits and {(1 << MAX_RECIPROCAL_BITS - 13) - 1}"
            )
        #: Bits of floor(2 * y), y <= M.
        self.floor_bits = (2 * largest).bit_length()
        #: Bits of the same before it is shifted by the exponent difference (significands differ by
        #: a factor below 2). A difference of as many bits leaves nothing.
        self.quotient_bits = (4 * largest - 1).bit_length()

    def top(self, dual: bool, negative: bool) -> int:
        fmt = self.dual if dual and self.dual is not None else self.plain
        return fmt.scale_top(negative)


class QuantizerLane(wiring.Component):
    """Code of one value.

    Members:
        x: FP16 pattern, of magnitude at most that of its group's (half's) maximum.
        dual: the group uses the dual format; comes ``LATENCY - 1`` cycles after ``x``, so that
            all lanes share one delay.
        reciprocal, exponent: of the maximum; index 1 is for negative values, 0 for others. In a
            plain group both are equal. A zero reciprocal makes every code 0.
        code: the code, ``LATENCY`` cycles later.

    One value in each cycle. At most 4 LUT levels and one short carry chain between registers. The
    multiplier has registers before, inside and after, as a DSP58 wants them.

    With ``s`` the significands and ``d >= 0`` the exponent difference, ``P = s_x * R`` with
    ``R = ceil(2 * M * 2**22 / s_m)``; then ``f = P >> (22 + d)`` is ``floor(2 * y)`` and bits
    11 .. 21 + d of P are all zero exactly when ``2 * y`` is an integer (proof in the contract).
    Where ``f`` is 0, so is the code, whatever the other bits.
    """

    LATENCY = 5

    def __init__(self, formats: QuantizerFormats) -> None:
        self.formats = formats
        super().__init__(
            {
                "x": In(16),
                "dual": In(1),
                "reciprocal": In(data.ArrayLayout(unsigned(formats.reciprocal_bits), 2)),
                "exponent": In(data.ArrayLayout(unsigned(5), 2)),
                "code": Out(formats.plain.bits),
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
        distance_1 = Signal((fmt.quotient_bits - 1).bit_length(), reset_less=True)
        far_1 = Signal(reset_less=True)
        # A subnormal pattern has the place value of exponent 1.
        field = Cat(exponent(self.x)[0] | (exponent(self.x) == 0), exponent(self.x)[1:])
        m.d.comb += difference.eq(Mux(negative, self.exponent[1], self.exponent[0]) - field)
        m.d.sync += [
            significand_1.eq(significand(self.x)),
            reciprocal_1.eq(Mux(negative, self.reciprocal[1], self.reciprocal[0])),
            distance_1.eq(difference),
            far_1.eq(difference >= fmt.quotient_bits),
        ]

        # 2, 3: the product, in the registers of the multiplier.
        product_2 = Signal(11 + fmt.reciprocal_bits, reset_less=True)
        product_3 = Signal.like(product_2, reset_less=True)
        m.d.sync += [product_2.eq(significand_1 * reciprocal_1), product_3.eq(product_2)]
        distance_3 = delayed(m, distance_1, 2, "distance", shift_lut=False)
        far_3 = delayed(m, far_1, 2, "far", shift_lut=False)

        # 4: floor of 2 * y, and whether anything was lost. The low 11 bits may hold the excess
        # of the rounded-up reciprocal.
        quotient = product_3[PLACES : PLACES + fmt.quotient_bits]
        floor_4 = Signal(fmt.floor_bits, reset_less=True)
        tie_4 = Signal(reset_less=True)
        lost = Cat(
            bit & (distance_3 > place) for place, bit in enumerate(quotient[: 2 ** len(distance_3)])
        )
        m.d.sync += [
            floor_4.eq(Mux(far_3, 0, quotient >> distance_3)),
            tie_4.eq(~(product_3[11:PLACES].any() | lost.any())),
        ]

        # 5: the decision.
        sign_4 = delayed(m, negative, self.LATENCY - 1, "sign", shift_lut=False)
        dual_4 = self.dual if fmt.dual is not None else C(0, 1)
        code_5 = Signal(fmt.plain.bits, reset_less=True)
        m.d.sync += code_5.eq(self._decision(floor_4, tie_4, sign_4, dual_4))
        m.d.comb += self.code.eq(code_5)
        return m

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


class GroupMaxima(wiring.Component):
    """Absolute maxima of each group, of the negative and of the other values.

    Members:
        beat, valid: beats as they arrive.
        negative, positive: maxima, 15-bit patterns; ``dual``, ``last`` of the group; with ``done``.

    Latency ``log2(lanes) + 1`` cycles from a group's last beat. One beat in each cycle.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes, self.beats = lanes, beats_per_group(lanes)
        super().__init__(
            {
                "beat": In(beat_layout(lanes)),
                "valid": In(1),
                "negative": Out(15),
                "positive": Out(15),
                "dual": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        patterns = [self.beat.data[lane] for lane in range(self.lanes)]
        sides = [
            [Mux(p[15], p[:15], 0) for p in patterns],
            [Mux(p[15], 0, p[:15]) for p in patterns],
        ]
        valid, dual = self.valid, self.beat.dual
        level = 0
        while len(sides[0]) > 1:
            level += 1
            for number, side in enumerate(sides):
                halved = []
                for pair in range(len(side) // 2):
                    larger = Signal(15, name=f"max_{number}_{level}_{pair}", reset_less=True)
                    a, b = side[2 * pair], side[2 * pair + 1]
                    m.d.sync += larger.eq(Mux(a > b, a, b))
                    halved.append(larger)
                sides[number] = halved
            registered = Signal(name=f"valid_{level}")
            m.d.sync += registered.eq(valid)
            valid, dual = registered, delayed(m, dual, 1, f"dual_{level}")

        position = Signal(range(self.beats))
        first = position == 0
        m.d.sync += self.done.eq(valid & (position == self.beats - 1))
        with m.If(valid):
            m.d.sync += [position.eq(position + 1), self.dual.eq(dual)]
            for result, (side,) in zip((self.negative, self.positive), sides, strict=True):
                with m.If(first | (side > result)):
                    m.d.sync += result.eq(side)
        return m


class GroupScales(wiring.Component):
    """From a group's maxima to everything that its lanes and its receiver need.

    Members:
        negative, positive, dual, valid: from ``GroupMaxima``.
        params, done: the result (``layout``), ``LATENCY`` cycles later.

    One group in each cycle. Two block memories: the reciprocal table, read for both halves through
    its two ports, and for dual formats the table of the derived scale.
    """

    LATENCY = 4

    @staticmethod
    def layout(formats: QuantizerFormats) -> data.StructLayout:
        """Per-group constants; index 1 of an array is for negative values."""
        return data.StructLayout(
            {
                "reciprocal": data.ArrayLayout(unsigned(formats.reciprocal_bits), 2),
                "exponent": data.ArrayLayout(unsigned(5), 2),
                "scale": 16,
                "scale_neg": 16,
                "dual": 1,
            }
        )

    def __init__(self, formats: QuantizerFormats) -> None:
        self.formats = formats
        super().__init__(
            {
                "negative": In(15),
                "positive": In(15),
                "dual": In(1),
                "valid": In(1),
                "params": Out(self.layout(formats)),
                "done": Out(1),
            }
        )

    def _rom(self, m: Module, name: str, shape: Shape, init: Sequence[int]) -> memory.Memory:
        depth = 1 << (len(init) - 1).bit_length()
        rom = memory.Memory(
            shape=shape,
            depth=depth,
            init=[*init, *[0] * (depth - len(init))],
            attrs={"rom_style": "block"},
        )
        m.submodules[name] = rom
        return rom

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt = self.formats
        history = Signal(self.LATENCY)
        m.d.sync += history.eq(Cat(self.valid, history))
        m.d.comb += self.done.eq(history[-1])

        # 1: which maximum counts for which side; both are the same in a plain group.
        dual = self.dual if fmt.dual is not None else C(0, 1)
        larger = Mux(self.negative > self.positive, self.negative, self.positive)
        maxima = []
        for side, own in (("positive", self.positive), ("negative", self.negative)):
            maximum = Signal(15, name=f"{side}_1", reset_less=True)
            m.d.sync += maximum.eq(Mux(dual, own, larger))
            maxima.append(maximum)
        dual_1 = delayed(m, dual, 1, "dual_early")

        # 2, 3: the tables, with the output register of a block memory.
        contents = [entry for top in fmt.tops for entry in reciprocals(top)]
        rom = self._rom(m, "reciprocals", unsigned(fmt.reciprocal_bits), contents)
        table_bits = (len(fmt.tops) - 1).bit_length()
        entries = []
        for side, maximum in enumerate(maxima):
            port = rom.read_port()
            plain_table, dual_table = (
                fmt.tops.index(fmt.top(kind, bool(side))) for kind in (False, True)
            )
            table = Mux(dual_1, C(dual_table, table_bits), C(plain_table, table_bits))
            m.d.comb += port.addr.eq(Cat(maximum[:10], table))
            entries.append(delayed(m, port.data, 1, f"entry_{side}"))
        increment: Value = C(0, 1)
        if fmt.dual is not None:
            ratio = fmt.dual.scale_top(False), fmt.dual.scale_top(True)
            scale_rom = self._rom(m, "rescaled", unsigned(12), rescaled(*ratio))
            scale_port = scale_rom.read_port()
            m.d.comb += scale_port.addr.eq(maxima[1][:10])
            increment = delayed(m, scale_port.data, 1, "increment")

        # 4: zero groups, and the scales.
        dual_3 = delayed(m, dual_1, 2, "dual_late")
        params = Signal(self.layout(fmt), reset_less=True)
        scales = []
        for side, maximum in enumerate(maxima):
            value = delayed(m, maximum, 2, f"maximum_{side}")
            live = value >= MIN_NORMAL
            m.d.sync += [
                params.reciprocal[side].eq(Mux(live, entries[side], 0)),
                params.exponent[side].eq(value[10:]),
            ]
            scales.append((value, live))
        (scale, live), (scale_neg, live_neg) = scales
        raised = Signal(16)
        m.d.comb += raised.eq(Cat(C(0, 10), scale_neg[10:]) + increment)
        m.d.sync += [
            params.scale.eq(Mux(live, scale, 0)),
            # Beyond exponent 31 lies nothing; only an input with exponent 31, which is an error
            # already, comes here.
            params.scale_neg.eq(Mux(dual_3 & live_neg, Mux(raised[15], 0x7FFF, raised), 0)),
            params.dual.eq(dual_3),
        ]
        m.d.comb += self.params.eq(params)
        return m


class Quantizer(wiring.Component):
    """FP16 beats to beats of codes with the group's scales.

    Args:
        lanes: values in a beat, a power of two from 2 to 128.
        plain: single-scale format, for groups with ``dual = 0``.
        dual: dual format, for groups with ``dual = 1``; None when there are none.
        ties: ``even``, ``up`` or ``down``.

    Members:
        i: beats (``beat_layout``; ``rotate`` is ignored), groups aligned from reset.
        o: beats of codes (``code_layout``). ``scale`` is the group's maximum (the positive half's,
            when dual); ``scale_neg`` the derived scale of a dual group's negative half, else 0.
        nonfinite: one cycle, some cycles after a value with exponent field 31 was accepted.

    Latency, first beat in to first beat out: ``128 / lanes + LATENCY + log2(lanes)`` cycles.
    Throughput: one beat in each cycle, sustained: while one group is quantized, the next one's
    maxima are gathered. Cost: see ``QuantizerLane``, one DSP for each lane, two or three block
    memories. Raises ValueError for formats that do not fit (``QuantizerFormats``).
    """

    #: From a group's last beat in to its first beat out, without the tree of maxima.
    LATENCY = 13

    def __init__(
        self, lanes: int, plain: NumberFormat, dual: NumberFormat | None, ties: TieRule = "even"
    ) -> None:
        self.lanes, self.beats = lanes, beats_per_group(lanes)
        self.formats = QuantizerFormats(plain, dual, ties)
        super().__init__(
            {
                "i": In(stream.Signature(beat_layout(lanes))),
                "o": Out(stream.Signature(code_layout(lanes, plain.bits))),
                "nonfinite": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        fmt, lanes, beats = self.formats, self.lanes, self.beats
        layout = code_layout(lanes, fmt.plain.bits)
        latency = QuantizerLane.LATENCY

        m.submodules.store = store = GroupStore(beat_layout(lanes), beats)
        m.submodules.maxima = maxima = GroupMaxima(lanes)
        m.submodules.scales = scales = GroupScales(fmt)
        m.submodules.queue = queue = OutputQueue(
            layout, beats, OutputQueue.depth_for(beats, latency)
        )
        wiring.connect(m, wiring.flipped(self.i), store.i)
        wiring.connect(m, wiring.flipped(self.o), queue.o)
        taken = self.i.valid & self.i.ready
        m.d.comb += [
            maxima.beat.eq(self.i.payload),
            maxima.valid.eq(taken),
            scales.negative.eq(maxima.negative),
            scales.positive.eq(maxima.positive),
            scales.dual.eq(maxima.dual),
            scales.valid.eq(maxima.done),
        ]

        # Two steps, because up to 128 lanes are searched.
        infinite = Signal(lanes, reset_less=True)
        infinite_valid = Signal()
        m.d.sync += [
            infinite.eq(Cat(exponent(self.i.payload.data[k]).all() for k in range(lanes))),
            infinite_valid.eq(taken),
            self.nonfinite.eq(infinite.any() & infinite_valid),
        ]

        # Constants of finished groups wait here for their turn. As many fit as groups in the
        # store, so the pipeline before needs no stall.
        depth = max(2, store.depth // beats)
        waiting = memory.Memory(
            shape=GroupScales.layout(fmt), depth=depth, init=[], attrs={"ram_style": "distributed"}
        )
        m.submodules.waiting = waiting
        write, read = waiting.write_port(), waiting.read_port(domain="comb")
        level = Signal(range(depth + 1))
        start = Signal()
        m.d.comb += [
            write.data.eq(scales.params),
            write.en.eq(scales.done),
            start.eq(store.ready & queue.room & (level != 0)),
            store.start.eq(start),
            queue.reserve.eq(start),
        ]
        params = Signal(GroupScales.layout(fmt), reset_less=True)
        m.d.sync += [
            write.addr.eq(write.addr + scales.done),
            read.addr.eq(read.addr + start),
            level.eq(level + scales.done - start),
        ]
        with m.If(start):
            m.d.sync += params.eq(read.data)

        dual = delayed(m, params.dual, latency - 1, "dual")
        codes = []
        for k in range(lanes):
            lane = QuantizerLane(fmt)
            place(m, platform, f"lane_{k}", lane, "quantizer_lane")
            m.d.comb += [
                lane.x.eq(store.beat.data[k]),
                lane.dual.eq(dual),
                lane.reciprocal.eq(params.reciprocal),
                lane.exponent.eq(params.exponent),
            ]
            codes.append(lane.code)
        follow = Cat(params.scale, params.scale_neg, params.dual, store.beat.last)
        followed = delayed(m, follow, latency, "follow")
        history = Signal(latency)
        m.d.sync += history.eq(Cat(store.valid, history))
        m.d.comb += [
            Value.cast(queue.data).eq(Cat(*codes, followed)),
            queue.push.eq(history[-1]),
        ]
        return m
