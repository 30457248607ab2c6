# SPDX-License-Identifier: Apache-2.0
"""Group-wise Hadamard transform of FP16 activations, exact up to one final rounding."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.quant_preset import GROUP
from lutvar.hw.port_types import Stream
from lutvar.hw.verilog import place

from .elastic import GroupStore, OutputQueue, beat_layout, beats_per_group
from .fp16 import FIXED_BITS, FROM_SUM_LATENCY, TO_FIXED_LATENCY, FromSum, ToFixed
from .pipeline import delay_stages, valid_line


def check_signs(signs: Sequence[int]) -> tuple[int, ...]:
    """The sign vector; raises ValueError unless it is 128 times +1 or -1."""
    if len(signs) != GROUP or not set(signs) <= {1, -1}:
        raise ValueError(f"signs must be {GROUP} times +1 or -1, not {signs!r}")
    return tuple(signs)


class Hadamard(wiring.Component):
    """`z_i = RNE_fp16(2**-7 * sum_j (-1)**popcount(i & j) * d_j * x_j)` over groups of 128.

    Element `j` of a group is lane `j % lanes` of beat `j // lanes`; groups are aligned from
    reset. A group with `rotate = 0` passes unchanged, bit for bit, and in order.

    Args:
        lanes: FP16 values in a beat, a power of two from 2 to 128.
        signs: the 128 signs `d_j`, each +1 or -1.
        terms: beats have `terms` (`beat_layout`), which pass as they are.

    Latency, first beat in to first beat out: `128 / lanes + latency + 3` cycles. A complete
    group comes out without further input. Throughput: one beat in each cycle.
    Cost: 2 adders for each lane and stage over beats, 1 for each lane and stage within a beat, of
    43 to 49 bits. Raises ValueError for other numbers of lanes or signs.

    How: the seven butterfly stages work on exact integers that grow by one bit each. The first
    `log2(128 / lanes)` join elements of different beats: while the first half of a pair of
    blocks arrives, it enters a shift register; while the second half arrives, the sums leave
    and the differences enter. These leave while the next block arrives, or nothing at all: the
    shift register moves in every cycle, so a group never waits for the next one.
    """

    i: Stream  #: in: beats (`beat_layout`)
    o: Stream  #: out: beats; a zero sum is +0

    def __init__(self, lanes: int, signs: Sequence[int], terms: bool = False) -> None:
        self.lanes, self.beats = lanes, beats_per_group(lanes)
        self.signs = check_signs(signs)
        #: Distance, in beats, of the elements that each stage over beats joins.
        self.distances = tuple(1 << k for k in reversed(range(self.beats.bit_length() - 1)))
        stages = GROUP.bit_length() - 1
        #: Cycles from a beat's departure from the store to its result.
        self.latency = TO_FIXED_LATENCY + stages + sum(self.distances) + FROM_SUM_LATENCY
        self.layout = layout = beat_layout(lanes, terms)
        super().__init__({"i": In(stream.Signature(layout)), "o": Out(stream.Signature(layout))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        layout = self.layout
        depth = OutputQueue.depth_for(self.beats, self.latency)
        m.submodules.store = store = GroupStore(layout, self.beats)
        m.submodules.queue = queue = OutputQueue(layout, self.beats, depth)
        wiring.connect(m, wiring.flipped(self.i), store.i)
        wiring.connect(m, wiring.flipped(self.o), queue.o)
        start = store.ready & queue.room
        m.d.comb += [store.start.eq(start), queue.reserve.eq(start)]

        # Bit t: a beat left the store t cycles ago.
        history = valid_line(m, store.valid, self.latency, "history")
        valid = Cat(store.valid, history)

        values = []
        for lane in range(self.lanes):
            converter = ToFixed()
            place(m, platform, f"to_fixed_{lane}", converter, "fp16_to_fixed")
            flips = Const(
                sum((self.signs[b * self.lanes + lane] < 0) << b for b in range(self.beats)),
                self.beats,
            )
            m.d.comb += [
                converter.x.eq(store.beat.data[lane]),
                converter.flip.eq(flips.bit_select(store.index, 1)),
            ]
            values.append(converter.y)

        age = TO_FIXED_LATENCY  # cycles since the store
        index = delay_stages(m, store.index, age, "index_in")
        bits = FIXED_BITS
        for distance in self.distances:
            second = Signal(name=f"second_{distance}")
            m.d.comb += second.eq(valid[age] & index[distance.bit_length() - 1])
            bits += 1
            values = [
                self._over_beats(m, value, distance, second, bits, f"beats_{distance}_{lane}")
                for lane, value in enumerate(values)
            ]
            index = delay_stages(m, index, distance + 1, f"index_{distance}")
            age += distance + 1

        distance = 1
        while distance < self.lanes:
            bits += 1
            values = self._within_beat(m, values, distance, bits)
            distance *= 2
            age += 1

        original = data.View(
            layout, delay_stages(m, Value.cast(store.beat), self.latency, "original")
        )
        results = []
        for lane, value in enumerate(values):
            rounder = FromSum()
            place(m, platform, f"from_sum_{lane}", rounder, "fp16_from_sum")
            m.d.comb += rounder.x.eq(value)
            results.append(rounder.y)
        m.d.comb += [
            queue.data.eq(original),
            queue.push.eq(valid[self.latency]),
        ]
        with m.If(original.rotate):
            m.d.comb += queue.data.data.eq(Cat(results))
        return m

    @staticmethod
    def _over_beats(
        m: Module, value: Value, distance: int, second: Value, bits: int, name: str
    ) -> Value:
        """Butterfly between beats `distance` apart; `distance + 1` cycles."""
        wide = signed(bits)
        enter = Signal(wide, name=f"{name}_enter", reset_less=True)
        result = Signal(wide, name=name, reset_less=True)
        leave = delay_stages(m, enter, distance - 1, f"{name}_shift")
        # Written so that each result bit needs one LUT and its carry; the extra low bit of the
        # second sum carries the + 1 of the two's complement into the adder.
        mask = second.replicate(bits)
        difference = Cat(second, leave & mask) + Cat(second, value ^ mask)
        m.d.sync += [
            result.eq(leave + (value & mask)),
            enter.eq(difference[1:]),
        ]
        return result

    @staticmethod
    def _within_beat(m: Module, values: Sequence[Value], distance: int, bits: int) -> list[Value]:
        """Butterflies between lanes `distance` apart; one cycle."""
        results: list[Value] = []
        for lane, value in enumerate(values):
            partner = values[lane ^ distance]
            result = Signal(signed(bits), name=f"lanes_{distance}_{lane}", reset_less=True)
            m.d.sync += result.eq(partner - value if lane & distance else value + partner)
            results.append(result)
        return results
