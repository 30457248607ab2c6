# SPDX-License-Identifier: Apache-2.0
"""The matrix unit: activation banks times weight beats into accumulator banks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import STRIPE, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.contract.sections import section_heads
from lutvar.contract.widths import WORDS, drain_latency
from lutvar.hw.inspection import for_inspection
from lutvar.hw.links import (
    INDEX_BITS,
    UnitComponent,
    bank_write_layout,
    drain_layout,
    drain_values,
    sections_bits,
    sections_of,
    stripes_of,
    unit_members,
    weight_stream,
)
from lutvar.hw.port_types import Stream, View, view_signal
from lutvar.hw.units.memory import Fifo
from lutvar.hw.units.pipeline import delay, valid_line
from lutvar.hw.verilog import place

from .chain import marks_layout, operand_words, write_layout
from .conductor import Conductor, walk_layout
from .forms import dot_timing
from .heads import Head, make_heads
from .issue import IssueGate
from .loader import OperandLoader, operand_layout
from .port import WORK_QUEUE, WeightPort
from .row_group import RowGroup, chain_ports, row_group_latency
from .unpack import work_layout


class MatrixUnit(UnitComponent):
    """Multiplies activation banks with weights; 16 * `row_groups` rows, a vector in each cycle.

    With `config.max_sections` above 1 an instruction may split the chain of row groups into 2 or 4
    sections (`contract/sections`) that hold the same rows and multiply different outputs, a vector
    each in each cycle.

    The unit has no memory port: `idle` is 1 and `error` 0. `stop`: no further command is taken.

    Readings of panels that have more or fewer beats than an instruction needs are an error
    (`surplus`, `missing`): then the unit stands still until reset, and neither that instruction's
    `done` comes nor that of a later one. Ports run ahead, so with several of them the `done` of
    instructions that are still multiplied does not come either.

    Cycles. With G groups, P passes for each (2 if dual or in two terms), N outputs and s sections,
    weights that come without pause and commands that come early enough, an instruction takes

        G * P * max(v + fill - 1, operand_cycles) + b

    cycles from the one before it, where `fill` is the dot form's (1 for form `table`), and nothing
    is lost between passes or instructions (with `fill` above 1, up to 2 cycles a pass less).

    As many sections as weight ports: `v = ceil(N / 128 / s) * 4 * 33` (49 at 6 bits) are the beats
    of a pass on a port, without biases, which are `b = P * ceil(N / 128 / s) * 4 * 2`. Fewer
    sections than ports: a vector of each section in every cycle, `v = c = ceil(N / 128 / s) * 128`
    and `b = 0`, as long as all ports have the same number of stripes; a port is never faster than
    its beats. With several ports, beats also come while an operand is made ready, and their vectors
    wait in queues: `max(c + fill - 1, v, operand_cycles)`.

    When the unit is idle, the first vector is issued `start_cycles` after the command. `done` comes
    `drain_cycles` after the last vector. Not pipelined (`config.pipelined` false): a vector every
    `drain_cycles` instead of every cycle.
    """

    #: in: beats of the instructions' panels, in order, in the layout of `contract/memory`; a stream
    #: for each weight port. Up to `port.WEIGHT_QUEUE` and two more are taken ahead of their
    #: instruction
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
        m.submodules.loader = loader = OperandLoader(config, self._timing)
        m.submodules.conductor = conductor = Conductor(config)
        interval = 1 if config.pipelined else self.drain_cycles
        m.submodules.gate = gate = IssueGate(self.fill, interval)
        ports = [WeightPort(config) for _ in range(config.weight_ports)]
        for number, port in enumerate(ports):
            place(m, platform, f"weights_{number}", port, "weight_port")
            wiring.connect(m, port.vectors, conductor.vectors[number])
            m.d.comb += conductor.soon[number].eq(port.soon)
            wiring.connect(m, wiring.flipped(self.weights[number]), port.weights)
        self._accept(m, loader, conductor, ports)
        self._errors(m, ports)

        steps = conductor.steps
        # After an error the instruction's last vector may go; its `done` must not follow.
        wrong = Cat(port.surplus | port.missing for port in ports).any()
        finished = valid_line(
            m, gate.go & steps.payload.last & ~wrong, self.drain_cycles, "finished"
        )
        outstanding = Signal(range(64))
        m.d.comb += [
            gate.valid.eq(steps.valid),
            gate.end.eq(steps.payload.end),
            gate.loaded.eq(loader.ready),
            steps.ready.eq(gate.open),
            loader.start.eq(gate.start),
            self.done.eq(finished[-1]),
            self.busy.eq(outstanding != 0),
            self.active.eq(self.issue),
            self.idle.eq(1),
        ]
        accepted = self.command.valid & self.command.ready
        m.d.sync += [
            outstanding.eq(outstanding + accepted - self.done),
            self.issue.eq(gate.go),
            self.wait_weights.eq(gate.open & ~steps.valid),
        ]

        groups = [RowGroup(config) for _ in range(config.row_groups)]
        for position, group in enumerate(groups):
            place(m, platform, f"group_{position}", group, "row_group", spread=True)
            for number, sections in enumerate(sections_of(config)):
                head = max(h for h in section_heads(len(groups), sections) if h <= position)
                m.d.comb += group.places[number].eq(position - head)
        heads = make_heads(m, platform, config, steps.payload)
        self._feed(m, groups[0], loader, gate, steps.payload, heads[0])
        for position, (before, after) in enumerate(pairwise(groups), start=1):
            for name in chain_ports(config):
                m.d.comb += getattr(after, name).eq(getattr(before, f"{name}_out"))
            if position in heads:
                heads[position].enter(m, before, after)
        self._drain(m, groups)
        return m

    def _accept(
        self, m: Module, loader: OperandLoader, conductor: Conductor, ports: Sequence[WeightPort]
    ) -> None:
        """Commands to the operand loader, the conductor and the ports, each through a queue."""
        payload, config = self.command.payload, self.config
        m.submodules.loads = loads = Fifo(operand_layout(config), WORK_QUEUE)
        m.submodules.walks = walks = Fifo(walk_layout(config), WORK_QUEUE)
        wiring.connect(m, loads.o, loader.work)
        wiring.connect(m, walks.o, conductor.work)
        stripes = stripes_of(payload.blocks)
        sinks = [loads.i, walks.i, *(port.work for port in ports)]
        # A command in every third cycle at most: the ports learn of it a cycle later, for what is
        # theirs of it takes the rest of this one, and their queues must have counted it.
        every = Signal()
        accepted = Signal()
        late = Signal()
        m.d.sync += [
            every.eq(Cat(sink.ready for sink in sinks).all() & ~accepted & ~late),
            late.eq(accepted),
        ]
        m.d.comb += [
            self.command.ready.eq(every & ~self.stop),
            accepted.eq(self.command.ready & self.command.valid),
            loads.i.valid.eq(accepted),
            walks.i.valid.eq(accepted),
            loads.i.payload.address.eq(_bank_address(m, config, payload.bank, "load_bank")),
            # Terms are groups of their own to the loader.
            loads.i.payload.groups.eq(Mux(payload.terms, payload.groups << 1, payload.groups)),
            loads.i.payload.dual.eq(payload.dual),
            walks.i.payload.groups.eq(payload.groups),
            walks.i.payload.stripes.eq(stripes),
            walks.i.payload.twice.eq(payload.dual | payload.terms),
            walks.i.payload.acc_bank.eq(payload.acc_bank),
            walks.i.payload.exponent.eq(payload.exponent),
            walks.i.payload.more.eq(payload.more),
            walks.i.payload.sections.eq(payload.sections),
        ]
        for number, port in enumerate(ports):
            work = view_signal(work_layout(), reset_less=True)
            due = Signal()
            share = (stripes + len(ports) - 1 - number) >> (len(ports).bit_length() - 1)
            m.d.sync += [
                due.eq(accepted & (stripes > number)),  # else it has no stripe
                work.groups.eq(payload.groups),
                work.blocks.eq(share << (STRIPE // WEIGHT_BLOCK).bit_length() - 1),
                work.twice.eq(payload.dual | payload.terms),
                work.index.eq(payload.index),
            ]
            m.d.comb += [
                port.work.valid.eq(due),
                Value.cast(port.work.payload).eq(Value.cast(work)),
            ]

    def _errors(self, m: Module, ports: Sequence[WeightPort]) -> None:
        """Keeps the first error of the ports; of several at once that of the first port."""
        with m.If(~(self.surplus | self.missing)):
            for port in reversed(ports):
                with m.If(port.surplus | port.missing):
                    m.d.sync += [
                        self.surplus.eq(port.surplus),
                        self.missing.eq(port.missing),
                        self.weights_index.eq(port.index),
                    ]

    def _feed(
        self,
        m: Module,
        group: RowGroup,
        loader: OperandLoader,
        gate: IssueGate,
        step: Any,
        head: Head,
    ) -> None:
        """The first link's inputs: everything in step with the recoded weights."""
        config, latency = self.config, self._timing.recode_latency
        marks = view_signal(marks_layout())
        m.d.comb += [
            marks.vector.eq(gate.go),
            marks.start.eq(gate.start),
            marks.load.eq(loader.load_valid),
        ]
        write = self.bank_write
        words = view_signal(write_layout(config), reset_less=True)
        m.d.sync += [
            marks.write.eq(write.valid),
            words.row.eq(write.row),
            words.address.eq(_bank_address(m, config, write.bank, "write_bank") + write.word),
            words.data.eq(Cat(write.codes, write.scales)),
            words.sections.eq(write.sections),
        ]
        # With reset: the marks say which of the others are valid.
        late_marks = delay(m, Value.cast(marks), latency, "marks_line", reset=True)
        m.d.comb += [
            Value.cast(group.marks).eq(late_marks),
            *(
                group.vector[name].eq(delay(m, Value.cast(step[name]), latency, f"{name}_line"))
                for name in ("first", "bank", "column", "exponent")
            ),
            group.vector.ws.eq(head.ws),
            group.vector.bias.eq(head.bias),
            Value.cast(group.load).eq(delay(m, Value.cast(loader.load), latency, "load_line")),
            Value.cast(group.write).eq(delay(m, Value.cast(words), latency, "write_line")),
            group.operand.eq(head.operand),
        ]
        if sections_bits(config):
            m.d.comb += group.sections.eq(delay(m, step.sections, latency, "sections_line"))

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
