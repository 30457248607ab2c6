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
from .pipeline import delay_stages, valid_line
from .quantizer_lane import QuantizerFormats
from .tables import reciprocals, rescaled

MIN_NORMAL = 0x0400  #: pattern of 2**-14; a smaller maximum makes a zero group


class GroupMaxima(wiring.Component):
    """Absolute maxima of each group, of the negative and of the other values.

    Latency `log2(lanes) + 1` cycles from a group's last beat. One beat in each cycle.
    """

    beat: View  #: in: beats as they arrive
    valid: Signal  #: in: a beat is here
    negative: Signal  #: out: maximum of the negative values, 15-bit pattern
    positive: Signal  #: out: maximum of the other values, 15-bit pattern
    dual: Signal  #: out: `dual` of the group
    done: Signal  #: out: one cycle for each group

    def __init__(self, lanes: int, group: int = GROUP) -> None:
        self.lanes, self.beats = lanes, beats_per_group(lanes, group)
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

        position = Signal(range(self.beats))
        first = position == 0
        m.d.sync += self.done.eq(valid & (position == self.beats - 1))
        with m.If(valid):
            m.d.sync += [position.eq(position + 1), self.dual.eq(dual)]
            for result, (maximum,) in zip((self.negative, self.positive), sides, strict=True):
                with m.If(first | (maximum > result)):
                    m.d.sync += result.eq(maximum)
        return m


class GroupScales(wiring.Component):
    """From a group's maxima to everything that its lanes and its receiver need.

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

    negative: Signal  #: in: from `GroupMaxima`
    positive: Signal  #: in: from `GroupMaxima`
    dual: Signal  #: in: from `GroupMaxima`
    valid: Signal  #: in: a group's maxima are here
    params: View  #: out: the result (`layout`), `LATENCY` cycles later
    done: Signal  #: out: one cycle for it

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
        history = valid_line(m, self.valid, self.LATENCY, "history")
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
        dual_3 = delay_stages(m, dual_1, 2, "dual_late")
        params = view_signal(self.layout(fmt), reset_less=True)
        scales = []
        for side, maximum in enumerate(maxima):
            value = delay_stages(m, maximum, 2, f"maximum_{side}")
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
