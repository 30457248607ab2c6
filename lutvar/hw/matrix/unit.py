# SPDX-License-Identifier: Apache-2.0
"""The matrix unit: activation banks times weight beats into accumulator banks."""

from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.contract.widths import WORDS, drain_latency
from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.inspection import for_inspection
from lutvar.hw.links import (
    INDEX_BITS,
    UnitComponent,
    bank_write_layout,
    drain_layout,
    drain_values,
    unit_members,
    weight_layout,
    weight_stream,
)
from lutvar.hw.port_types import Stream, View, view_signal
from lutvar.hw.units.memory import Fifo
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.units.ram_style import RamStyle
from lutvar.hw.verilog import place

from .chain import marks_layout, operand_words, vector_layout, write_layout
from .forms import dot_timing, make_weight_recoder
from .issue import IssueGate
from .loader import OperandLoader, operand_layout
from .row_group import CHAIN, RowGroup, row_group_latency
from .unpack import WeightUnpack, work_layout

#: Instructions whose work is known ahead. The operands of the next one load while one runs.
_QUEUE = 4
#: Beats that wait at each weight port: enough for the queue's own latency at full rate.
WEIGHT_QUEUE = 32


class MatrixUnit(UnitComponent):
    """Multiplies activation banks with weights; 16 * `row_groups` rows, a vector in each cycle.

    The unit has no memory port: `idle` is 1 and `error` 0. `stop`: no further command is taken.

    Readings of panels that have more or fewer beats than an instruction needs are an error
    (`surplus`, `missing`): then the unit stands still until reset, and neither that instruction's
    `done` comes nor that of a later one.

    Cycles. With G groups, P passes for each (2 if dual) and N outputs, weights that come without
    pause and commands that come early enough, an instruction takes

        G * P * max(v + fill - 1, operand_cycles) + P * N / 32 * 2

    cycles from the one before it, where `v = N / 32 * 33` (49 at 6 bits) are the beats of a pass
    without biases, and `fill` is the dot form's (1 for form `table`): nothing is lost between
    passes or instructions (with `fill` above 1, up to 2 cycles a pass less). With two weight
    ports `v = N`, and the last term, which is the biases', is 0. When the unit is
    idle, the first vector is issued `start_cycles` after the command. `done` comes
    `drain_cycles` after the last vector.
    Not pipelined (`config.pipelined` false): a vector every `drain_cycles` instead of every
    cycle.
    """

    #: in: beats of the instructions' panels, in order, in the layout of `contract/memory`; a stream
    #: for each weight port. Up to `WEIGHT_QUEUE` and two more are taken ahead of their instruction
    weights: list[Stream]
    #: in: words of activations, `links.bank_write_layout`. A word that is written in the cycle in
    #: which a command is taken, or before, is what the instruction reads
    bank_write: View
    drain: View  #: in: requests, `links.drain_layout`
    #: out: the values, `links.drain_latency` cycles later. A bank that is being accumulated into
    #: returns undefined values
    drained: View
    issue: Signal  #: out: a weight vector enters the chain
    wait_weights: Signal  #: out: the operand is there and no vector
    surplus: Signal  #: out: sticky: a reading of a panel had beats beyond its pass
    missing: Signal  #: out: sticky: a reading of a panel ended within its pass
    weights_index: Signal  #: out: index in the program of the instruction that either is about

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self._timing = dot = dot_timing(config)
        loader = for_inspection(OperandLoader(config, dot))
        self.fill: int = dot.fill
        #: From the start of an operand to that of the next, at least.
        self.operand_cycles: int = loader.cycles
        #: From a command that finds the unit idle to its first vector, if weights are there.
        self.start_cycles: int = 3 + loader.cycles - loader.hold + dot.fill
        #: From the last vector to `done`.
        self.drain_cycles: int = (
            dot.recode_latency + config.row_groups - 1 + row_group_latency(config)
        )
        super().__init__(
            {
                **unit_members(Opcode.MATRIX),
                "weights": In(weight_stream()).array(config.weight_ports),
                "bank_write": In(bank_write_layout(config)),
                "drain": In(drain_layout(config)),
                "drained": Out(drain_values()),
                "issue": Out(1),
                "wait_weights": Out(1),
                "surplus": Out(1),
                "missing": Out(1),
                "weights_index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config = self.config
        recoder = make_weight_recoder(config)
        m.submodules.recoder = recoder
        m.submodules.loader = loader = OperandLoader(config, self._timing)
        m.submodules.unpack = unpack = WeightUnpack(config)
        interval = 1 if config.pipelined else self.drain_cycles
        m.submodules.gate = gate = IssueGate(self.fill, interval)
        self._accept(m, loader, unpack)

        vector = unpack.vectors
        # After an error the instruction's last vector may go; its `done` must not follow.
        wrong = unpack.surplus | unpack.missing
        finished = valid_line(
            m, gate.go & vector.payload.last & ~wrong, self.drain_cycles, "finished"
        )
        outstanding = Signal(range(64))
        for port, (beats, weights) in enumerate(zip(unpack.beats, self.weights, strict=True)):
            # Between FETCH and the unpacker's ready, which comes late: block RAM, for LUTs are the
            # scarcer thing (a skid buffer takes one for each bit).
            queue = WideQueue(weight_layout().size, WEIGHT_QUEUE, style=RamStyle.BLOCK)
            m.submodules[f"weights_{port}"] = queue
            m.d.comb += [
                weights.ready.eq(queue.room),
                queue.push.eq(weights.valid & queue.room),
                queue.data.eq(Value.cast(weights.payload)),
                Value.cast(beats.payload).eq(queue.o.payload),
                beats.valid.eq(queue.o.valid),
                queue.o.ready.eq(beats.ready),
            ]
        m.d.comb += [
            gate.valid.eq(vector.valid),
            gate.end.eq(vector.payload.end),
            gate.loaded.eq(loader.ready),
            vector.ready.eq(gate.open),
            loader.start.eq(gate.start),
            recoder.codes.eq(vector.payload.codes),
            self.done.eq(finished[-1]),
            self.busy.eq(outstanding != 0),
            self.active.eq(self.issue),
            self.idle.eq(1),
            self.surplus.eq(unpack.surplus),
            self.missing.eq(unpack.missing),
            self.weights_index.eq(unpack.index),
        ]
        accepted = self.command.valid & self.command.ready
        m.d.sync += [
            outstanding.eq(outstanding + accepted - self.done),
            self.issue.eq(gate.go),
            self.wait_weights.eq(gate.open & ~vector.valid),
        ]

        groups = [RowGroup(config) for _ in range(config.row_groups)]
        for position, group in enumerate(groups):
            place(m, platform, f"group_{position}", group, "row_group", spread=True)
            m.d.comb += group.position.eq(position)
        self._feed(m, groups[0], loader, gate, vector.payload, recoder)
        for before, after in pairwise(groups):
            for name in CHAIN:
                m.d.comb += getattr(after, name).eq(getattr(before, f"{name}_out"))
        self._drain(m, groups)
        return m

    def _accept(self, m: Module, loader: OperandLoader, unpack: WeightUnpack) -> None:
        """Commands to the operand loader and the weight unpacker, through a queue for each."""
        payload, config = self.command.payload, self.config
        m.submodules.loads = loads = Fifo(operand_layout(config), _QUEUE)
        m.submodules.works = works = Fifo(work_layout(config), _QUEUE)
        both = Signal()
        m.d.comb += [
            both.eq(loads.i.ready & works.i.ready & ~self.stop),
            self.command.ready.eq(both),
            loads.i.valid.eq(both & self.command.valid),
            works.i.valid.eq(both & self.command.valid),
            loads.i.payload.address.eq(_bank_address(m, config, payload.bank, "load_bank")),
            loads.i.payload.groups.eq(payload.groups),
            loads.i.payload.dual.eq(payload.dual),
            works.i.payload.groups.eq(payload.groups),
            works.i.payload.blocks.eq(payload.blocks),
            works.i.payload.dual.eq(payload.dual),
            works.i.payload.acc_bank.eq(payload.acc_bank),
            works.i.payload.exponent.eq(payload.exponent),
            works.i.payload.more.eq(payload.more),
            works.i.payload.index.eq(payload.index),
        ]
        for queue, stage in ((loads, loader), (works, unpack)):
            m.d.comb += [
                Value.cast(stage.work.payload).eq(Value.cast(queue.o.payload)),
                stage.work.valid.eq(queue.o.valid),
                queue.o.ready.eq(stage.work.ready),
            ]

    def _feed(
        self,
        m: Module,
        group: RowGroup,
        loader: OperandLoader,
        gate: IssueGate,
        item: Any,
        recoder: Any,
    ) -> None:
        """The first link's inputs: everything in step with the recoded weights."""
        config, latency = self.config, recoder.latency
        marks = view_signal(marks_layout())
        vector = view_signal(vector_layout(config))
        m.d.comb += [
            marks.vector.eq(gate.go),
            marks.start.eq(gate.start),
            marks.load.eq(loader.load_valid),
            vector.first.eq(item.first),
            vector.bank.eq(item.bank),
            vector.column.eq(item.column),
            vector.exponent.eq(item.exponent),
            vector.ws.eq(item.ws),
            vector.bias.eq(item.bias),
        ]
        write, words = self.bank_write, view_signal(write_layout(config), reset_less=True)
        m.d.sync += [
            marks.write.eq(write.valid),
            words.row.eq(write.row),
            words.address.eq(_bank_address(m, config, write.bank, "write_bank") + write.word),
            words.data.eq(Cat(write.codes, write.scales)),
        ]
        # With reset: the marks say which of the others are valid.
        late_marks = delay(m, Value.cast(marks), latency, "marks_line", reset=True)
        m.d.comb += [
            Value.cast(group.marks).eq(late_marks),
            Value.cast(group.vector).eq(delay(m, Value.cast(vector), latency, "vector_line")),
            Value.cast(group.load).eq(delay(m, Value.cast(loader.load), latency, "load_line")),
            Value.cast(group.write).eq(delay(m, Value.cast(words), latency, "write_line")),
            group.operand.eq(recoder.operand),
        ]

    def _drain(self, m: Module, groups: list[RowGroup]) -> None:
        """Requests and values go from the last row group to the first.

        So a request takes longer to the groups whose values have a shorter way, and the latency is
        the same for all of them.
        """
        links = len(groups)
        total = drain_latency(self.config)
        request = delay(m, Value.cast(self.drain), links, "drain_line")
        m.d.comb += Value.cast(groups[-1].drain).eq(request)
        for before, after in pairwise(reversed(groups)):
            m.d.comb += [
                after.drain.eq(before.drain_out),
                after.drained_in.eq(before.drained),
            ]
        values = Value.cast(groups[0].drained)
        spent = links + (links - 1) + RowGroup.DRAIN_LATENCY
        m.d.comb += Value.cast(self.drained).eq(delay(m, values, total - spent, "drained_line"))


def _bank_address(m: Module, config: AcceleratorConfig, bank: Value, name: str) -> Value:
    """Address of a bank's first word: banks follow each other without gaps."""
    address = Signal(range(operand_words(config)), name=name)
    with m.Switch(bank):
        for number in range(config.act_banks):
            with m.Case(number):
                m.d.comb += address.eq(number * config.bank_groups * WORDS)
    return address
