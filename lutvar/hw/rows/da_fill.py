# SPDX-License-Identifier: Apache-2.0
"""Fills the tables of distributed arithmetic: a walk over all subsets, one activation at a time.

In a Gray code two neighbouring subsets differ by one element, so each new subset sum is the one
before plus or minus one activation. An engine fills its tables one after the other; the 16 rows of
a group take the same steps at the same time.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP
from lutvar.hw.links import WORDS
from lutvar.hw.units.float_steps import delay
from lutvar.hw.units.planes import PlaneLogic

from .da_design import DEPTH, TABLE_LANES, DaDesign
from .da_heap import full_add, transpose
from .da_table import LutStore

#: Bits of the running sum that carry in one cycle; the next ones follow a cycle later.
CHUNK = 4


def chunks_of(design: DaDesign) -> int:
    return -(-design.entry_bits // CHUNK)


def write_distance(design: DaDesign) -> int:
    """Cycles from a step's count to the write of its sum."""
    return FillEngine.LATENCY + chunks_of(design) - 1


def fill_cycles(design: DaDesign) -> int:
    """Cycles from a start to the last write, both included."""
    return 1 + write_distance(design) + DEPTH * design.turns


class FillControl(wiring.Component):
    """Steps of all engines of a row group.

    Members:
        start: begin. Nothing in progress may be disturbed; see ``CYCLES``.
        lane, add, turn: registered; element of the table that changes from this step to the next,
            whether it joins, and which of its tables an engine fills.
        last: with them: the table is complete with this step, or nothing is in progress.
        clear: a word is written two cycles later.
        gray: its address, one cycle before (0 when none is written).
        writing, write_step, write_turn: in the same cycle: whether, the number of the word, and
            the turn of its table.
    """

    def __init__(self, design: DaDesign) -> None:
        self.design = design
        self.distance = write_distance(design)
        super().__init__(
            {
                "start": In(1),
                "lane": Out(range(TABLE_LANES)),
                "add": Out(1),
                "turn": Out(range(design.turns)),
                "last": Out(1),
                "clear": Out(1),
                "gray": Out(TABLE_LANES),
                "writing": Out(1),
                "write_step": Out(TABLE_LANES),
                "write_turn": Out(range(design.turns)),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        design = self.design
        busy = Signal()
        step = Signal(TABLE_LANES)
        turn = Signal(range(design.turns))
        with m.If(self.start):
            m.d.sync += [busy.eq(1), step.eq(0), turn.eq(0)]
        with m.Elif(busy):
            m.d.sync += step.eq(step + 1)
            with m.If(step.all()):
                m.d.sync += turn.eq(turn + 1)
                with m.If(turn == design.turns - 1):
                    m.d.sync += [busy.eq(0), turn.eq(0)]
        following = Signal(TABLE_LANES)
        m.d.comb += following.eq(step + 1)
        lane: Value = Const(0, len(self.lane))
        add: Value = Const(1, 1)
        for j in reversed(range(TABLE_LANES)):
            upper = following[j + 1] if j + 1 < TABLE_LANES else Const(0, 1)
            lane = Mux(following[j], j, lane)
            add = Mux(following[j], ~upper, add)
        m.d.sync += [
            self.lane.eq(lane),
            self.add.eq(add),
            self.turn.eq(turn),
            self.last.eq(step.all() | ~busy),
        ]

        active = Signal(self.distance - 2)
        m.d.sync += active.eq(Cat(busy, active))
        late = delay(m, Cat(step, turn), self.distance - 2, "step_line")
        late_step, late_turn = late[:TABLE_LANES], late[TABLE_LANES:]
        m.d.comb += self.clear.eq(active[self.distance - 3])
        gray = (late_step ^ (late_step >> 1))[:TABLE_LANES]
        m.d.sync += [
            self.gray.eq(Mux(active[self.distance - 3], gray, 0)),
            self.writing.eq(active[self.distance - 3]),
            self.write_step.eq(late_step),
            self.write_turn.eq(late_turn),
        ]
        return m


class FillEngine(wiring.Component):
    """One engine of 16 rows: keeps codes of its lanes, sums them up.

    Members:
        word: a loaded word, row 0 and element 0 lowest; held for ``phases`` cycles.
        phase: which of the engine's elements of it is taken in this cycle.
        storing: an element is taken. place: where it goes, or, unless ``storing``, ignored.
        lane, add, turn, last: from :class:`FillControl`.
        dual, negative: pass of the codes.
        entry: subset sum plus offset, bit by bit, 16 rows each: ``LATENCY + chunks - 1`` cycles
            after its step (the cycle before that of ``lane``).
    """

    #: From a step's count to the lowest bits of its sum.
    LATENCY = 4

    def __init__(self, design: DaDesign, number: int) -> None:
        self.design, self.engine = design, design.engines[number]
        bits = design.plain.bits
        super().__init__(
            {
                "word": In(ROW_GROUP * LANES * bits),
                "phase": In(range(design.phases)),
                "storing": In(1),
                "place": In(range(WORDS * design.phases)),
                "lane": In(range(TABLE_LANES)),
                "add": In(1),
                "turn": In(range(design.turns)),
                "last": In(1),
                "dual": In(1),
                "negative": In(1),
                "entry": Out(ROW_GROUP * design.entry_bits),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        code = self._codes(m)
        add = delay(m, self.add, 2, "add_line")
        last = delay(m, self.last, 2, "last_line")
        # Decoded: magnitude, whether it counts, and whether it is subtracted.
        magnitude, keep, minus = self._decode(m, code, add)
        restart = Signal(reset_less=True)
        m.d.sync += restart.eq(last)
        self._accumulate(m, magnitude, keep, minus, restart)
        return m

    def _codes(self, m: Module) -> list[Value]:
        """Planes of the codes of the lane that a step needs, two cycles after ``lane``."""
        bits = self.design.plain.bits
        size = 1 << (bits - 1).bit_length()
        taken = Signal(ROW_GROUP * bits, reset_less=True)
        with m.Switch(self.phase):
            for phase, position in enumerate(self.engine.positions):
                rows = (
                    self.word[(row * LANES + position) * bits :][:bits] for row in range(ROW_GROUP)
                )
                with m.Case(phase):
                    m.d.sync += taken.eq(Cat(*rows))
        m.submodules.store = store = LutStore(len(taken), len(self.place))
        stored = Signal()
        m.d.sync += stored.eq(self.storing)
        with m.If(self.storing):
            m.d.sync += store.address.eq(self.place)
        with m.Else(), m.Switch(Cat(self.lane, self.turn)):
            for turn, lanes in enumerate(self.engine.addresses):
                for lane, address in enumerate(lanes):
                    with m.Case(lane | turn << len(self.lane)):
                        m.d.sync += store.address.eq(address)
        m.d.comb += [store.write.eq(stored), store.data.eq(taken)]
        held = Signal(ROW_GROUP * size, reset_less=True)
        padded = Cat(
            *(Cat(store.words[row * bits :][:bits], Const(0, size - bits))
              for row in range(ROW_GROUP))
        )  # fmt: skip
        if size == bits:
            padded = store.words
        m.d.sync += held.eq(transpose(m, padded, size, "codes"))
        return [held[ROW_GROUP * k : ROW_GROUP * (k + 1)] for k in range(bits)]

    def _decode(self, m: Module, code: list[Value], add: Value) -> tuple[list[Value], Value, Value]:
        design = self.design
        *index, sign = code
        logic = PlaneLogic(m, ROW_GROUP, "decode")
        if design.sign_magnitude:
            halves = [design.plain.positive]
            variables = list(index)
            if design.dual is not None:
                halves.append(design.dual.negative)
                variables.append((self.dual & self.negative).replicate(ROW_GROUP))
            words = [
                half.magnitudes[i] if i < len(half.magnitudes) else 0
                for half in halves
                for i in range(1 << len(index))
            ]
            bits = max(words).bit_length()
            keep = Const((1 << ROW_GROUP) - 1, ROW_GROUP)
            if design.dual is not None:
                same = ~(sign ^ self.negative.replicate(ROW_GROUP))
                keep = ~self.dual.replicate(ROW_GROUP) | same
            minus = sign ^ ~add.replicate(ROW_GROUP)
        else:
            variables, bits = list(code), design.plain.bits
            words = [
                (design.plain.decode_int(c) or 0) % (1 << bits)
                for c in range(design.plain.code_count)
            ]
            keep = Const((1 << ROW_GROUP) - 1, ROW_GROUP)
            minus = ~add.replicate(ROW_GROUP)
        planes = [
            _register(m, plane, f"magnitude{k}")
            for k, plane in enumerate(logic.functions(words, bits, variables))
        ]
        if not isinstance(keep, Const):
            keep = _register(m, keep, "keep")
        return planes, keep, _register(m, minus, "minus")

    def _accumulate(
        self, m: Module, magnitude: list[Value], keep: Value, minus: Value, restart: Value
    ) -> None:
        design = self.design
        last = chunks_of(design) - 1
        carry = minus
        parts: list[Value] = []
        for chunk in range(last + 1):
            low, high = chunk * CHUNK, min((chunk + 1) * CHUNK, design.entry_bits)
            totals: list[Value] = []
            held = Signal(ROW_GROUP * (high - low), name=f"sum{chunk}", reset_less=True)
            for bit in range(low, high):
                if bit < len(magnitude):
                    addend = (magnitude[bit] & keep) ^ minus
                elif design.sign_magnitude:
                    addend = minus
                else:
                    addend = magnitude[-1] ^ minus
                now = held[ROW_GROUP * (bit - low) :][:ROW_GROUP]
                total, carry = full_add(now, addend, carry)
                totals.append(total)
            offset = Cat(
                *(Const(design.offset >> bit & 1, 1).replicate(ROW_GROUP)
                  for bit in range(low, high))
            )  # fmt: skip
            m.d.sync += held.eq(Cat(*totals))
            with m.If(restart):
                m.d.sync += held.eq(offset)
            parts.append(delay(m, held, last - chunk, f"sum{chunk}_line"))
            if chunk == last:
                break
            carry, minus, restart = (
                _register(m, v, f"{name}_chunk{chunk + 1}")
                for v, name in ((carry, "carry"), (minus, "minus"), (restart, "restart"))
            )
            if not isinstance(keep, Const):
                keep = _register(m, keep, f"keep_chunk{chunk + 1}")
            magnitude = [
                plane if bit < high and bit != len(magnitude) - 1
                else _register(m, plane, f"magnitude{bit}_chunk{chunk + 1}")
                for bit, plane in enumerate(magnitude)
            ]  # fmt: skip
        m.d.comb += self.entry.eq(Cat(*parts))


def _register(m: Module, value: Value, name: str) -> Signal:
    register = Signal(len(value), name=name, reset_less=True)
    m.d.sync += register.eq(value)
    return register
