# SPDX-License-Identifier: Apache-2.0
"""Fills the tables of distributed arithmetic: a walk over all subsets, one activation at a time.

In a Gray code two neighbouring subsets differ by one element, so each new subset sum is the one
before plus or minus one activation. The walk starts at the empty subset with the table's offset,
the magnitudes of its negative activations, which five steps before add up. An engine fills its
tables one after the other; the 16 rows of a group take the same steps at the same time.
"""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP
from lutvar.contract.widths import WORDS
from lutvar.hw.units.pipeline import delay, register, valid_line
from lutvar.hw.units.planes import PlaneLogic

from .da_carry import add_planes
from .da_design import DEPTH, TABLE_LANES, DaDesign
from .da_heap import transpose
from .da_table import LutStore

#: Cycles for each table: one for each activation, then one for each subset.
TABLE_CYCLES = TABLE_LANES + DEPTH
#: Cycles from a step's count to its sum, in which it is written.
DISTANCE = 4


def fill_cycles(design: DaDesign) -> int:
    """Cycles from a start to the first vector that meets the new tables.

    All tables, then the way of the last entry, which is one cycle behind that of a vector, and the
    vector of zeros.
    """
    return TABLE_CYCLES * design.turns + DISTANCE


class FillControl(wiring.Component):
    """Steps of all engines of a row group."""

    start: Signal  #: in: begin. Nothing in progress may be disturbed; see `fill_cycles`
    lane: Signal  #: out: registered: element of the table that changes from this step to the next
    add: Signal  #: out: with `lane`: the element joins
    #: out: with `lane`: the walk has not begun (add the element to the offset instead, if it is
    #: negative)
    first: Signal
    turn: Signal  #: out: with `lane`: which of its tables an engine fills
    #: out: with `lane`: the table is complete with this step, or nothing is in progress
    last: Signal
    #: out: a word is written two cycles later, or all tables are to be read at address 0
    clear: Signal
    #: out: all tables are full, and a vector that came in this cycle would be one of zeros
    zero: Signal
    gray: Signal  #: out: address of a word, one cycle before it is written (0 when none is)
    writing: Signal  #: out: in the same cycle as `gray`: a word will be written
    write_step: Signal  #: out: number of the word
    write_turn: Signal  #: out: turn of its table

    def __init__(self, design: DaDesign) -> None:
        self.design = design
        super().__init__(
            {
                "start": In(1),
                "lane": Out(range(TABLE_LANES)),
                "add": Out(1),
                "first": Out(1),
                "turn": Out(range(design.turns)),
                "last": Out(1),
                "clear": Out(1),
                "zero": Out(1),
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
        begin = DEPTH - TABLE_LANES  # the upper half of the count is the walk
        count = Signal(TABLE_LANES + 1, init=begin)
        turn = Signal(range(design.turns))
        end = Signal()
        m.d.comb += end.eq(count.all() & (turn == design.turns - 1))
        with m.If(self.start):
            m.d.sync += [busy.eq(1), count.eq(begin), turn.eq(0)]
        with m.Elif(busy):
            m.d.sync += count.eq(count + 1)
            with m.If(count.all()):
                m.d.sync += [count.eq(begin), turn.eq(turn + 1)]
            with m.If(end):
                m.d.sync += [busy.eq(0), turn.eq(0)]
        step, walk = count[:TABLE_LANES], count[TABLE_LANES]
        following = Signal(TABLE_LANES)
        m.d.comb += following.eq(step + 1)
        lane: Value = Const(0, len(self.lane))
        add: Value = Const(1, 1)
        for j in reversed(range(TABLE_LANES)):
            upper = following[j + 1] if j + 1 < TABLE_LANES else Const(0, 1)
            lane = Mux(following[j], j, lane)
            add = Mux(following[j], ~upper, add)
        m.d.sync += [
            self.lane.eq(Mux(walk, lane, (step - begin)[: len(self.lane)])),
            self.add.eq(add),
            self.first.eq(~walk),
            self.turn.eq(turn),
            self.last.eq(count.all() | ~busy),
        ]

        active = valid_line(m, busy & walk, DISTANCE - 2, "active")
        full = valid_line(m, busy & end, DISTANCE - 1, "full")
        late = delay(m, Cat(step, turn), DISTANCE - 2, "step_line")
        late_step, late_turn = late[:TABLE_LANES], late[TABLE_LANES:]
        m.d.comb += [
            self.clear.eq(active[-1] | full[-1]),
            self.zero.eq(full[-1]),
        ]
        gray = (late_step ^ (late_step >> 1))[:TABLE_LANES]
        m.d.sync += [
            self.gray.eq(Mux(active[-1], gray, 0)),
            self.writing.eq(active[-1]),
            self.write_step.eq(late_step),
            self.write_turn.eq(late_turn),
        ]
        return m


class FillEngine(wiring.Component):
    """One engine of 16 rows: keeps codes of its lanes, sums them up.

    Cost: about 15 LUT sites for each row with 4-bit codes: 4 to choose an element, 2 of memory, 3
    to decode it, 6 to add.
    """

    word: Signal  #: in: a loaded word, row 0 and element 0 lowest; held for `phases` cycles
    phase: Signal  #: in: which of the engine's elements of it is taken in this cycle
    storing: Signal  #: in: an element is taken
    place: Signal  #: in: where it goes; ignored unless `storing`
    lane: Signal  #: in: from `FillControl`
    add: Signal  #: in: from `FillControl`
    first: Signal  #: in: from `FillControl`
    turn: Signal  #: in: from `FillControl`
    last: Signal  #: in: from `FillControl`
    dual: Signal  #: in: the codes are of the dual format
    negative: Signal  #: in: pass over its negative half
    #: out: subset sum plus offset, bit by bit, 16 rows each: `DISTANCE` cycles after its step's
    #: count (which is the cycle before that of `lane`)
    entry: Signal

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
                "first": In(1),
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
        # With the code: what to do with it.
        add = delay(m, self.add, 2, "add_line")
        first = delay(m, self.first, 2, "first_line")
        restart = delay(m, self.last, 3, "last_line")
        magnitude, keep, minus = self._decode(m, code, add, first)
        addends = [plane & keep ^ minus for plane in magnitude]
        beyond = minus if self.design.sign_magnitude else addends[-1]
        addends += [beyond] * (self.design.entry_bits - len(addends))
        entry = Signal(ROW_GROUP * self.design.entry_bits, name="entry_held", reset_less=True)
        now = [entry[ROW_GROUP * k :][:ROW_GROUP] for k in range(self.design.entry_bits)]
        m.d.sync += entry.eq(Cat(*add_planes(m, "adder", now, addends, minus))[: len(entry)])
        with m.If(restart):
            m.d.sync += entry.eq(0)
        m.d.comb += self.entry.eq(entry)
        return m

    def _codes(self, m: Module) -> list[Value]:
        """Planes of the codes of the lane that a step needs, two cycles after `lane`."""
        bits = self.design.plain.bits
        size = 1 << (bits - 1).bit_length()
        element = Signal(ROW_GROUP * bits, reset_less=True)
        with m.Switch(self.phase):
            for phase, position in enumerate(self.engine.positions):
                rows = (
                    self.word[(row * LANES + position) * bits :][:bits] for row in range(ROW_GROUP)
                )
                # The last one also for phases that nobody looks at.
                last = phase == len(self.engine.positions) - 1
                with m.Default() if last else m.Case(phase):
                    m.d.sync += element.eq(Cat(*rows))
        m.submodules.store = store = LutStore(len(element), len(self.place))
        stored = Signal()
        m.d.sync += stored.eq(self.storing)
        with m.If(self.storing):
            m.d.sync += store.address.eq(self.place)
        with m.Else(), m.Switch(Cat(self.lane, self.turn)):
            for turn, lanes in enumerate(self.engine.addresses):
                for lane, address in enumerate(lanes):
                    with m.Case(lane | turn << len(self.lane)):
                        m.d.sync += store.address.eq(address)
        m.d.comb += [store.write.eq(stored), store.data.eq(element)]
        codes = Signal(ROW_GROUP * size, reset_less=True)
        padded: Value = Cat(
            *(Cat(store.words[row * bits :][:bits], Const(0, size - bits))
              for row in range(ROW_GROUP))
        )  # fmt: skip
        if size == bits:
            padded = store.words
        m.d.sync += codes.eq(transpose(m, padded, size, "codes"))
        return [codes[ROW_GROUP * k : ROW_GROUP * (k + 1)] for k in range(bits)]

    def _decode(
        self, m: Module, code: list[Value], add: Value, first: Value
    ) -> tuple[list[Value], Value, Value]:
        """Registered planes of an element's magnitude, whether it counts, and whether it is
        subtracted. In two's complement the planes are the element itself."""
        design = self.design
        *index, sign = code
        logic = PlaneLogic(m, ROW_GROUP, "decode")
        keep: Value
        if design.sign_magnitude:
            halves = [design.plain.positive]
            variables = list(index)
            positive_counts: Value = ~first
            negative_counts: Value = Const(1, 1)
            if design.dual is not None:
                halves.append(design.dual.negative)
                variables.append((self.dual & self.negative).replicate(ROW_GROUP))
                positive_counts = ~first & ~(self.dual & self.negative)
                # In the pass over the positive half the offset may be what the other half has:
                # any number is right that keeps subset sums in range.
                negative_counts = first | ~self.dual | self.negative
            words = [
                half.magnitudes[i] if i < len(half.magnitudes) else 0
                for half in halves
                for i in range(1 << len(index))
            ]
            bits = max(words).bit_length()
            keep = sign & negative_counts.replicate(ROW_GROUP)
            keep = keep | ~sign & positive_counts.replicate(ROW_GROUP)
            minus = (sign ^ ~add.replicate(ROW_GROUP)) & ~first.replicate(ROW_GROUP)
        else:
            variables, bits = list(code), design.plain.bits
            words = [
                (design.plain.decode_int(c) or 0) % (1 << bits)
                for c in range(design.plain.code_count)
            ]
            keep = sign | ~first.replicate(ROW_GROUP)
            minus = (first | ~add).replicate(ROW_GROUP)
        planes = [
            register(m, plane, f"magnitude{k}")
            for k, plane in enumerate(logic.functions(words, bits, variables))
        ]
        return planes, register(m, keep, "keep"), register(m, minus, "minus")
