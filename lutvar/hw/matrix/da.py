# SPDX-License-Identifier: Apache-2.0
"""The form `da`: distributed arithmetic, subset sums of activations in LUTRAM.

Each row keeps 26 tables with the sums of all subsets of five activations (see `da_design`). The
bit planes of a weight vector address them, the same addresses in all 16 rows, so that a word of
LUTRAM holds an entry of every row. Carry chains add up what comes out. Filling the tables of a new
operand takes `fill` cycles in which no vector can pass.

Tables have offsets, each its own, and the top plane enters inverted. Both add the same to the raw
sum of every vector, so a vector of zeros, read when the tables are full, shows how much: it is kept
and subtracted from then on.
"""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP, AcceleratorConfig
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.widths import WORDS
from lutvar.hw.units.pipeline import data_register, valid_line
from lutvar.hw.units.planes import PlaneLogic, to_planes

from .da_carry import add_planes
from .da_design import TABLE_LANES, DaDesign
from .da_fill import FillControl, FillEngine, fill_cycles
from .da_heap import Column, add_columns, height_of, transpose
from .da_plan import make_plan
from .da_table import LutStore
from .dot_form import GroupDot, WeightRecoder


class DaRecoder(WeightRecoder):
    """Weight codes to bit planes in two's complement, in the order of tables.

    `operand` is `planes` words of 128 bits, the lowest plane first.
    """

    latency = 1

    def __init__(self, design: DaDesign) -> None:
        self.design = design
        super().__init__(
            {
                "codes": In(GROUP * design.weight.bits),
                "operand": Out(GROUP * design.planes),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        design, bits = self.design, self.design.weight.bits
        # `to_planes` leaves lanes in an order of its own; it gets them so that they come out in
        # the order of tables.
        lanes = [0] * GROUP
        for position, lane in enumerate(_plane_order(bits)):
            lanes[lane] = design.order[position]
        codes = Cat(*(self.codes[bits * lane : bits * (lane + 1)] for lane in lanes))
        planes = to_planes(m, codes, bits, "codes")
        logic = PlaneLogic(m, GROUP, "recoded")
        words = [
            (design.weight.decode_int(code) or 0) % (1 << design.planes)
            for code in range(design.weight.code_count)
        ]
        m.d.sync += data_register(m, self.operand, "recoded").eq(
            Cat(*logic.functions(words, design.planes, planes))
        )
        return m


def _plane_order(bits: int) -> list[int]:
    """Which code each position of a plane of `to_planes` belongs to."""
    result = [0] * GROUP
    start = 0
    for r in range(bits):
        count = -(-(GROUP - r) // bits)
        for i in range(count):
            result[bits * i + r] = start + i
        start += count
    return result


class DaRows(GroupDot):
    """Dot products of 16 rows by distributed arithmetic. Ports and timing as `GroupDot`.

    Throughput: a vector in each cycle, outside of filling. The LUT sites for each lane are in
    `lutvar/contract/data/array_costs.json`. The memories are read without delay, with one level
    of carry chains behind them; every other level has its register.
    """

    def __init__(self, design: DaDesign) -> None:
        self.design = design
        blank = Const(0, ROW_GROUP * design.entry_bits * design.planes)
        heights = [height_of(column) for column in self._columns([blank] * len(design.tables))]
        #: From weights to the raw sum, before the offsets' part is subtracted.
        self.raw_latency = 2 + len(make_plan(heights).levels) + 1
        self.latency = self.raw_latency + 1
        self.interval = design.phases
        self.settle = max(1, design.phases - 1)
        self.fill = fill_cycles(design)
        self.hold = self.fill
        super().__init__(
            {
                "load_valid": In(1),
                "load_word": In(range(WORDS)),
                "load_codes": In(ROW_GROUP * LANES * design.plain.bits),
                "load_dual": In(1),
                "load_negative": In(1),
                "start": In(1),
                "weights": In(GROUP * design.planes),
                "sums": Out(data.ArrayLayout(signed(design.sum_bits), ROW_GROUP)),
            }
        )

    def _columns(self, tables: list[Value]) -> list[Column]:
        """Everything to be added: lookups of all tables and planes."""
        design = self.design
        columns: list[Column] = [[] for _ in range(design.sum_bits)]
        width = ROW_GROUP * design.entry_bits
        for words in tables:
            for plane in range(design.planes):
                word = words[width * plane :][:width]
                top = plane == design.planes - 1
                for bit in range(design.entry_bits):
                    part = word[ROW_GROUP * bit :][:ROW_GROUP]
                    if plane + bit < len(columns):
                        columns[plane + bit].append(~part if top else part)
        return columns

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        design = self.design
        m.submodules.control = control = FillControl(design)
        m.d.comb += control.start.eq(self.start)
        entries = self._engines(m, control)
        addresses = self._addresses(m, control)

        tables: list[Value] = []
        for number, table in enumerate(design.tables):
            store = LutStore(ROW_GROUP * design.entry_bits, TABLE_LANES, design.planes)
            m.submodules[f"table_{number}"] = store
            count = len(table.lanes)
            parts: list[Value] = []
            for plane in range(design.planes):
                parts += [
                    addresses[GROUP * plane + table.first :][:count],
                    Const(0, TABLE_LANES - count),
                ]
            write = Signal(name=f"write_{number}")
            mine = control.writing & (control.write_turn == table.turn)
            if count < TABLE_LANES:
                mine &= control.write_step[count:] == 0
            m.d.sync += write.eq(mine)
            m.d.comb += [
                store.address.eq(Cat(*parts)),
                store.write.eq(write),
                store.data.eq(entries[table.engine]),
            ]
            tables.append(store.words)
        self._add(m, tables, control.zero)
        return m

    def _addresses(self, m: Module, control: FillControl) -> Value:
        """Weight planes, or the same Gray code for all tables.

        Done with the reset and set inputs of two registers, so that it takes no LUT.
        """
        design = self.design
        cleared = Signal(GROUP * design.planes, reset_less=True)
        addresses = Signal(GROUP * design.planes, reset_less=True)
        m.d.sync += cleared.eq(self.weights)
        with m.If(control.clear):
            m.d.sync += cleared.eq(0)
        following: Value = cleared
        for lane in range(TABLE_LANES):
            mask = sum(1 << t.first + lane for t in design.tables if lane < len(t.lanes))
            mask = sum(mask << GROUP * plane for plane in range(design.planes))
            chosen = Signal(len(addresses), name=f"addresses_lane{lane}")
            m.d.comb += chosen.eq(Mux(control.gray[lane], following | mask, following))
            following = chosen
        m.d.sync += addresses.eq(following)
        return addresses

    def _engines(self, m: Module, control: FillControl) -> list[Value]:
        """Takes loaded words apart; returns the entries that the engines write."""
        design = self.design
        word = Signal(len(self.load_codes), reset_less=True)
        number = Signal(range(WORDS), reset_less=True)
        dual = Signal(reset_less=True)
        negative = Signal(reset_less=True)
        phase = Signal(range(design.phases))
        storing = Signal()
        with m.If(self.load_valid):
            m.d.sync += [
                word.eq(self.load_codes),
                number.eq(self.load_word),
                dual.eq(self.load_dual),
                negative.eq(self.load_negative),
                phase.eq(0),
                storing.eq(1),
            ]
        with m.Elif(storing):
            m.d.sync += [phase.eq(phase + 1), storing.eq(phase != design.phases - 1)]
        entries: list[Value] = []
        for index in range(len(design.engines)):
            engine = FillEngine(design, index)
            m.submodules[f"engine_{index}"] = engine
            m.d.comb += [
                engine.word.eq(word),
                engine.phase.eq(phase),
                engine.storing.eq(storing),
                engine.place.eq(Cat(phase, number)),
                engine.lane.eq(control.lane),
                engine.add.eq(control.add),
                engine.first.eq(control.first),
                engine.turn.eq(control.turn),
                engine.last.eq(control.last),
                engine.dual.eq(dual),
                engine.negative.eq(negative),
            ]
            entries.append(engine.entry)
        return entries

    def _add(self, m: Module, tables: list[Value], zero: Value) -> None:
        """The raw sum of each row, less that of the vector of zeros."""
        design = self.design
        width = ROW_GROUP * design.sum_bits
        raw = Signal(width, reset_less=True)
        m.d.sync += raw.eq(Cat(*add_columns(m, self._columns(tables), "sum")))
        base = Signal(width, reset_less=True)
        arriving = valid_line(m, zero, self.raw_latency, "arriving")
        with m.If(arriving[-1]):
            m.d.sync += base.eq(raw)
        kept, lost = (
            [word[ROW_GROUP * k :][:ROW_GROUP] for k in range(design.sum_bits)]
            for word in (raw, ~base)
        )
        ones = Const((1 << ROW_GROUP) - 1, ROW_GROUP)
        planes = add_planes(m, "subtract", kept, lost, ones)[: design.sum_bits]
        size = 1 << (design.sum_bits - 1).bit_length()
        padded = Cat(*planes, Const(0, ROW_GROUP * (size - len(planes))))
        rows = transpose(m, padded, ROW_GROUP, "sums")
        for row in range(ROW_GROUP):
            m.d.sync += self.sums[row].eq(rows[size * row :][: design.sum_bits])


class DaWeightRecode(DaRecoder):
    """The `WeightRecoder` of form `da`."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(DaDesign.of(config))


class DaGroupDot(DaRows):
    """The `GroupDot` of form `da`."""

    def __init__(self, config: AcceleratorConfig) -> None:
        super().__init__(DaDesign.of(config))
