# SPDX-License-Identifier: Apache-2.0
"""Takes weight vectors from the ports in the order of an instruction's passes and rounds."""

from typing import Any

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import STRIPE, AcceleratorConfig
from lutvar.contract.sections import head_ports
from lutvar.hw.links import sections_bits, sections_of
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.pipeline import data_register

from .unpack import vector_item_layout

#: Bits of a number of stripes.
STRIPES = 7


def walk_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the conductor must know of an instruction: its operands of the same names."""
    return data.StructLayout(
        {
            "groups": 8,
            "stripes": STRIPES,
            "twice": 1,
            "acc_bank": range(config.acc_banks),
            "exponent": signed(6),
            "more": 1,
            "sections": sections_bits(config),
        }
    )


def step_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A weight vector for each section, of the same place in its stripe.

    vectors: by section. Those of sections that an instruction does not have, or whose stripes are
    used up, are undefined, and so are the sums that they go into, which nobody reads. first marks
    the first pass of the first group, unless the instruction goes on from older sums (`more`);
    biases count with it. end: the last vectors of a pass. last: of an instruction. column: of each
    section's accumulators.
    """
    return data.StructLayout(
        {
            "vectors": data.ArrayLayout(vector_item_layout(config), config.max_sections),
            "first": 1,
            "end": 1,
            "last": 1,
            "bank": range(config.acc_banks),
            "column": range(config.acc_depth),
            "exponent": signed(6),
            "sections": sections_bits(config),
        }
    )


class Conductor(wiring.Component):
    """Steps through passes, rounds of stripes and their columns, all sections in step.

    In a round each section takes the 128 vectors of a stripe, from the port of that stripe
    (`contract/sections`). A step needs a vector of each port whose turn it is.

    Latency 1. A step in each cycle, if the ports have vectors: none is lost between rounds, passes
    or, when the next work is here in time, between works.
    """

    work: Stream  #: in: instructions; taken with the last step of the one before
    vectors: list[Stream]  #: in: weight vectors of each port; valid from registers
    soon: Signal  #: in: ports whose `valid` is 1 in the next cycle; of several ports
    steps: Stream  #: out: payload and valid from registers

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "work": In(stream.Signature(walk_layout(config))),
                "vectors": In(stream.Signature(vector_item_layout(config))).array(
                    config.weight_ports
                ),
                "soon": In(config.weight_ports),
                "steps": Out(stream.Signature(step_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        config, steps = self.config, self.steps
        ports, most = config.weight_ports, config.max_sections
        active = Signal()
        work = view_signal(walk_layout(config), reset_less=True)
        passes_left = Signal(9, reset_less=True)  # after this one
        first = Signal(name="first", reset_less=True)
        column = Signal(len(steps.payload.column), reset_less=True)
        round_end = Signal()
        # Of the round: stripes from its first one on, the port of that one, ports whose turn it is.
        left = Signal(STRIPES, reset_less=True)
        base = Signal(range(max(2, ports)), reset_less=True)
        due = Signal(ports, reset_less=True)
        # A round is long: all that is known of the next one settles meanwhile, step by step.
        final_pass = Signal(name="final_pass", reset_less=True)
        final_round = Signal(name="final_round", reset_less=True)
        next_left = Signal(STRIPES, reset_less=True)
        next_base = Signal.like(base, name="next_base")
        next_due = Signal.like(due, name="next_due")
        count = Array(sections_of(config))[work.sections]
        following = Mux(final_round, 0, base + count)
        m.d.sync += [
            final_pass.eq(passes_left == 0),
            final_round.eq(left <= count),
            next_left.eq(Mux(final_round, work.stripes, left - count)),
            next_base.eq(following if ports > 1 else 0),
            next_due.eq(self._due(next_base, next_left, work.sections)),
        ]

        here, load, pass_end, all_end = (
            Signal(name=n) for n in ("here", "load", "pass_end", "all_end")
        )
        # Whether all vectors are here is known a cycle before: much hangs on what is taken.
        lacking = Signal()
        now_due = Signal(ports)
        m.d.sync += [due.eq(now_due), lacking.eq((now_due & ~self.soon).any())]
        m.d.comb += [
            here.eq(self.vectors[0].valid if ports == 1 else ~lacking),
            load.eq(active & here & (~steps.valid | steps.ready)),
            pass_end.eq(round_end & final_round),
            all_end.eq(pass_end & final_pass),
            self.work.ready.eq(~active | (load & all_end)),
            *(v.ready.eq(load & due[p]) for p, v in enumerate(self.vectors)),
        ]
        first_due = self._due(
            Const(0, len(base)), self.work.payload.stripes, self.work.payload.sections
        )
        with m.If(self.work.valid & self.work.ready):
            m.d.comb += now_due.eq(first_due)
        with m.Elif(load & round_end):
            m.d.comb += now_due.eq(next_due)
        with m.Else():
            m.d.comb += now_due.eq(due)
        item = data_register(m, steps.payload, "step")
        with m.If(steps.ready):
            m.d.sync += steps.valid.eq(0)
        with m.If(load):
            m.d.sync += [
                steps.valid.eq(1),
                item.first.eq(first & ~work.more),
                item.end.eq(pass_end),
                item.last.eq(all_end),
                item.bank.eq(work.acc_bank),
                item.column.eq(column),
                item.exponent.eq(work.exponent),
                item.sections.eq(work.sections),
                *(Value.cast(item.vectors[k]).eq(self._vector(k, base)) for k in range(most)),
                column.eq(Mux(pass_end, 0, column + 1)),
                round_end.eq(column[: STRIPE.bit_length() - 1] == STRIPE - 2),
            ]
            with m.If(round_end):
                m.d.sync += [left.eq(next_left), base.eq(next_base)]
            with m.If(pass_end):
                m.d.sync += [passes_left.eq(passes_left - 1), first.eq(0)]
            with m.If(all_end):
                m.d.sync += active.eq(0)
        with m.If(self.work.valid & self.work.ready):
            coming = self.work.payload
            m.d.sync += [
                active.eq(1),
                work.eq(coming),
                passes_left.eq(Mux(coming.twice, coming.groups << 1, coming.groups) - 1),
                first.eq(1),
                column.eq(0),
                left.eq(coming.stripes),
                base.eq(0),
            ]
        return m

    def _due(self, base: Value, left: Value, sections: Value) -> Value:
        """Ports whose turn it is when the round's first stripe is on port `base`."""
        turns = []
        for port in range(self.config.weight_ports):
            turn: Value = Const(0)
            for number, count in enumerate(sections_of(self.config)):
                # Ports of a round follow each other, and `base` is a multiple of their number.
                offset = port % count
                mine = (base == port - offset) & (left > offset)
                turn = turn | (mine & (sections == number))
            turns.append(turn)
        return Cat(turns)

    def _vector(self, section: int, base: Signal) -> Value:
        """The vector of a section, from one of the few ports that its head ever takes."""
        ports = self.config.weight_ports
        candidates = sorted({
            port for count in sections_of(self.config) if section < count
            for port in head_ports(section, count, ports)
        })  # fmt: skip
        values = [Value.cast(self.vectors[port].payload) for port in candidates]
        chosen = values[0]
        for port, value in zip(candidates[1:], values[1:], strict=True):
            chosen = Mux(base == port - section, value, chosen)
        return chosen
