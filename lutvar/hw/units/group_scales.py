# SPDX-License-Identifier: Apache-2.0
"""What the quantizer knows about a group as a whole: its maxima, reciprocals and scales."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import C, Cat, Module, Mux, Shape, Signal, Value, unsigned
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.quant_preset import GROUP
from lutvar.hw.port_types import View, view_signal

from .elastic import beat_layout, beats_per_group
from .pipeline import delay, delay_stages, valid_line
from .quantizer_lane import QuantizerFormats
from .second_scale import SecondScale
from .tables import reciprocals, rescaled

MIN_NORMAL = 0x0400  #: pattern of 2**-14; a smaller maximum makes a zero group


class GroupMaxima(wiring.Component):
    """Absolute maxima of each group, of the negative and of the other values.

    With `rest_bits` beats of groups that came back may come between those of a group of new ones.

    Latency `log2(lanes) + 1` cycles from a group's last beat. One beat in each cycle.
    """

    beat: View  #: in: beats as they arrive
    valid: Signal  #: in: a beat is here
    negative: Signal  #: out: maximum of the negative values, 15-bit pattern
    positive: Signal  #: out: maximum of the other values, 15-bit pattern
    dual: Signal  #: out: `dual` of the group
    done: Signal  #: out: one cycle for each group
    back: Signal  #: in: a beat that came back is here; not together with `valid`
    rest: Signal  #: out: maximum of the values that came back
    done_back: Signal  #: out: one cycle for each group of them

    def __init__(self, lanes: int, group: int = GROUP, rest_bits: int = 0) -> None:
        self.lanes, self.beats, self.rest_bits = lanes, beats_per_group(lanes, group), rest_bits
        back = {"back": In(1), "rest": Out(rest_bits), "done_back": Out(1)}
        super().__init__(
            {
                **(back if rest_bits else {}),
                "beat": In(beat_layout(lanes, bool(rest_bits))),
                "valid": In(1),
                "negative": Out(15),
                "positive": Out(15),
                "dual": Out(1),
                "done": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        patterns: list[Value] = [self.beat.data[lane] for lane in range(self.lanes)]
        back: Value = C(0)
        if self.rest_bits:  # signs do not matter there
            back = self.back
            patterns = [Cat(p[:15], p[15] & ~back) for p in patterns]
        sides = [
            [Mux(p[15], p[:15], 0) for p in patterns],
            [Mux(p[15], 0, p[:15]) for p in patterns],
        ]
        valid, dual = self.valid, self.beat.dual
        level = 0
        while len(sides[0]) > 1:
            level += 1
            for number, side in enumerate(sides):
                halved: list[Value] = []
                for pair in range(len(side) // 2):
                    larger = Signal(15, name=f"max_{number}_{level}_{pair}", reset_less=True)
                    a, b = side[2 * pair], side[2 * pair + 1]
                    m.d.sync += larger.eq(Mux(a > b, a, b))
                    halved.append(larger)
                sides[number] = halved
            registered = Signal(name=f"valid_{level}")
            m.d.sync += registered.eq(valid)
            valid, dual = registered, delay_stages(m, dual, 1, f"dual_{level}")
            if self.rest_bits:
                came = Signal(name=f"back_{level}")
                m.d.sync += came.eq(back)
                back = came

        position = Signal(range(self.beats))
        first = position == 0
        m.d.sync += self.done.eq(valid & (position == self.beats - 1))
        with m.If(valid):
            m.d.sync += [position.eq(position + 1), self.dual.eq(dual)]
            for result, (maximum,) in zip((self.negative, self.positive), sides, strict=True):
                with m.If(first | (maximum > result)):
                    m.d.sync += result.eq(maximum)
        if self.rest_bits:
            place = Signal(range(self.beats))
            largest = sides[1][0][: self.rest_bits]
            m.d.sync += self.done_back.eq(back & (place == self.beats - 1))
            with m.If(back):
                m.d.sync += place.eq(place + 1)
                with m.If((place == 0) | (largest > self.rest)):
                    m.d.sync += self.rest.eq(largest)
        return m


class GroupScales(wiring.Component):
    """From a group's maxima to everything that its lanes and its receiver need.

    One group in each cycle. Two block memories: the reciprocal table, read for both halves through
    its two ports, and for dual formats the table of the derived scale. With two terms
    (`SecondScale`) the constants come 4 cycles later.

    Args:
        slots: places of groups that come in two terms.
    """

    LATENCY = 4

    @staticmethod
    def latency(formats: QuantizerFormats) -> int:
        """Cycles from maxima to constants."""
        return SecondScale.LATENCY if formats.terms else GroupScales.LATENCY

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

    negative: Signal  #: in: from `GroupMaxima`
    positive: Signal  #: in: from `GroupMaxima`
    dual: Signal  #: in: from `GroupMaxima`
    valid: Signal  #: in: a group's maxima are here
    params: View  #: out: the result (`layout`), `latency` cycles later
    done: Signal  #: out: one cycle for it
    rest: Signal  #: in: from `GroupMaxima`; of two terms
    back: Signal  #: in: a group that came back is here; of two terms, not together with `valid`
    slot: Signal  #: in: place of the group; of two terms
    done_back: Signal  #: out: one cycle for the result of a group that came back
    done_slot: Signal  #: out: its place, or that of the group of `done`

    def __init__(self, formats: QuantizerFormats, slots: int = 4) -> None:
        self.formats, self.slots = formats, slots
        two = {
            "rest": In(formats.rest_bits), "back": In(1), "slot": In(range(slots)),
            "done_back": Out(1), "done_slot": Out(range(slots)),
        }  # fmt: skip
        super().__init__(
            {
                **(two if formats.terms else {}),
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
        latency = self.latency(fmt)
        history = valid_line(m, self.valid, latency, "history")
        m.d.comb += self.done.eq(history[-1])

        # 1: which maximum counts for which side; both are the same in a plain group.
        dual = self.dual if fmt.dual is not None else C(0, 1)
        larger = Mux(self.negative > self.positive, self.negative, self.positive)
        maxima = []
        for sign, largest in (("positive", self.positive), ("negative", self.negative)):
            maximum = Signal(15, name=f"{sign}_1", reset_less=True)
            m.d.sync += maximum.eq(Mux(dual, largest, larger))
            maxima.append(maximum)
        dual_1 = delay_stages(m, dual, 1, "dual_early")
        second: SecondScale | None = None
        if fmt.terms:
            m.submodules.second = second = SecondScale(fmt, self.slots)
            history_back = valid_line(m, self.back, latency, "history_back")
            m.d.comb += [
                second.maximum.eq(larger),
                second.write.eq(self.valid),
                second.rest.eq(self.rest),
                second.slot.eq(self.slot),
                self.done_back.eq(history_back[-1]),
                self.done_slot.eq(delay(m, self.slot, latency, "slot_line")),
            ]
            # One more cycle: the maximum of what came back is brought to 11 bits.
            chosen = []
            for number, maximum in enumerate(maxima):
                pattern = Signal(15, name=f"pattern_{number}", reset_less=True)
                m.d.sync += pattern.eq(Mux(history_back[0], second.pattern, maximum))
                chosen.append(pattern)
            maxima = chosen
            dual_1 = delay_stages(m, dual_1 & ~history_back[0], 1, "dual_chosen")

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
            entries.append(delay_stages(m, port.data, 1, f"entry_{side}"))
        increment: Value = C(0, 1)
        if fmt.dual is not None:
            ratio = fmt.dual.scale_top(False), fmt.dual.scale_top(True)
            scale_rom = self._rom(m, "rescaled", unsigned(12), rescaled(*ratio))
            scale_port = scale_rom.read_port()
            m.d.comb += scale_port.addr.eq(maxima[1][:10])
            increment = delay_stages(m, scale_port.data, 1, "increment")

        # 4: zero groups, and the scales.
        late = latency - (5 if fmt.terms else 4)
        dual_3 = delay_stages(m, dual_1, 2 + late, "dual_late")
        if late:
            entries = [delay_stages(m, e, late, f"entry_late_{k}") for k, e in enumerate(entries)]
            increment = delay_stages(m, increment, late, "increment_late")
        params = view_signal(self.layout(fmt), reset_less=True)
        scales = []
        for side, maximum in enumerate(maxima):
            value = delay_stages(m, maximum, 2 + late, f"maximum_{side}")
            live = value >= MIN_NORMAL
            entry = entries[side]
            if second is not None:
                came = history_back[-2]
                shifted = (entries[0] << second.shift)[: fmt.reciprocal_bits]
                live = Mux(came, second.live, live)
                entry = Mux(came, shifted, entry)
            m.d.sync += [
                params.reciprocal[side].eq(Mux(live, entry, 0)),
                params.exponent[side].eq(value[10:]),
            ]
            scales.append((value, live))
        (scale, live), (scale_neg, live_neg) = scales
        if second is not None:
            scale = Mux(history_back[-2], second.scale, scale)
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
