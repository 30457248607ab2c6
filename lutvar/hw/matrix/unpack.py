# SPDX-License-Identifier: Apache-2.0
"""Beats of weight panels to weight vectors, each with its scale, bias and place in the work."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.memory import HALF_BLOCK, HALVES, SIDE_BEATS
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.links import BEAT, INDEX_BITS, weight_stream
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.pipeline import data_register


def work_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the weights of an instruction are: its operands of the same names, its `index`."""
    return data.StructLayout(
        {
            "groups": 8,
            "blocks": 9,
            "dual": 1,
            "acc_bank": range(config.acc_banks),
            "exponent": signed(6),
            "more": 1,
            "index": INDEX_BITS,
        }
    )


def vector_item_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A weight vector.

    bias is meaningful with `first` only, which marks the first pass of the first group, unless
    the instruction goes on from older sums (`more`). end: the last vector of a pass. last: of an
    instruction.
    """
    return data.StructLayout(
        {
            "codes": GROUP * config.quant_config.code_bits,
            "ws": 16,
            "bias": 32,
            "first": 1,
            "end": 1,
            "last": 1,
            "bank": range(config.acc_banks),
            "column": range(config.acc_depth),
            "exponent": signed(6),
        }
    )


@dataclass(frozen=True)
class GearStep:
    """What a port does in a step, with `left` bits left of its last beat.

    Attributes:
        take: the next beat is taken.
        give: the bits make a part of a vector.
    """

    left: int
    take: bool
    give: bool


def gear_steps(width: int) -> list[GearStep]:
    """Steps from beats to parts of `width` bits, at most a beat's, until nothing is left over.

    Wider parts than a beat take two steps now and then.
    """
    steps: list[GearStep] = []
    left = 0
    while not steps or left:
        take = left < width
        bits = left + (BEAT if take else 0)
        steps.append(GearStep(left, take, bits >= width))
        left = bits - width if bits >= width else bits
    return steps


class WeightUnpack(wiring.Component):
    """Follows the layout of weight panels (`contract/memory`) through an instruction.

    With two ports a vector is the codes of both, in step. A port has no beat of codes to take with
    the last vector of each half of a block; then it takes the scales or biases of the next half.

    Latency 1. One port, a beat in each cycle: a vector from each beat of codes at 4 bits, two from
    three at 6 bits, none from a beat of scales or biases. So at the best 32 vectors take 33 cycles
    (49 at 6 bits), and 2 more in each pass of group 0. Two ports: a vector in each cycle. No cycle
    is lost between passes or, when the next work is here in time, between works.

    Invariant: on each port a work takes the beats of its passes and no others: for each pass those
    of one reading, of which the last one has `last`. A beat is taken only while its work is here:
    after `work` was taken, or with the last vector of the work before while `work` is offered. A
    beat that breaks the rule, `last` before the end of a pass or an end without `last`, is reported
    and is the last one that is taken: from the next cycle on nothing more is taken or produced
    until reset.
    """

    work: Stream  #: in: what comes next; taken when the work before is used up
    #: in: panels, each once, or twice for a dual format; a stream for each weight port
    beats: list[Stream]
    #: out: weight vectors in order; payload from a register. After an error at most the vector of
    #: the wrong beat
    vectors: Stream
    surplus: Signal  #: out: sticky: a pass ended and the reading has more beats
    missing: Signal  #: out: sticky: a reading ended within a pass
    index: Signal  #: out: `index` of the work that either is about

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.bits = config.quant_config.code_bits
        if self.bits not in (4, 6):
            raise ValueError(f"codes of {self.bits} bits; weight beats hold codes of 4 or 6 bits")
        self.ports = config.weight_ports
        self.steps = gear_steps(GROUP // self.ports * self.bits)
        super().__init__(
            {
                "work": In(stream.Signature(work_layout(config))),
                "beats": In(weight_stream()).array(self.ports),
                "vectors": Out(stream.Signature(vector_item_layout(config))),
                "surplus": Out(1),
                "missing": Out(1),
                "index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        vectors = self.vectors
        active = Signal()
        work = view_signal(self.work.payload.shape(), reset_less=True)
        passes_left = Signal(9, reset_less=True)  # after this one
        blocks_left = Signal(9, reset_less=True)  # after this one
        first, biased = Signal(reset_less=True), Signal(init=1)
        column = Signal(len(vectors.payload.column), reset_less=True)
        # Known long before the last vector of a block, so a cycle late does not matter.
        final_pass, final_block = Signal(reset_less=True), Signal(reset_less=True)
        m.d.sync += [final_pass.eq(passes_left == 0), final_block.eq(blocks_left == 0)]

        # Place in the block.
        half, parity = Signal(range(HALVES)), Signal(range(max(2, self.ports)))
        index, half_end = Signal(range(HALF_BLOCK)), Signal()
        step, produce, block_end, pass_end, all_end = (
            Signal(name=n) for n in ("step", "produce", "block_end", "pass_end", "all_end")
        )
        following_biased = Mux(final_block, Mux(final_pass, Const(1), first & work.dual), biased)
        boundary, half_ends = Signal(), Signal()
        m.d.comb += half_ends.eq(index == HALF_BLOCK - 2)
        halted = Signal()
        # Beats before the next half of a block may be taken: their work is here or at the door.
        early_known = ~(half == HALVES - 1) | ~final_block | ~final_pass | self.work.valid
        sides_due, scales, biases = self._sides(
            m, half, parity, biased, following_biased, boundary, produce, half_ends,
            active & ~halted, early_known,
        )  # fmt: skip
        takes, gives, codes = self._gear(m, step)
        # The last beats of codes come with the last vector of a pass, or the one before it.
        closing = half_end if self.steps[-1].take else half_ends
        ends = closing & (half == HALVES - 1) & final_block
        owner = work.index
        if not self.steps[-1].take:  # what is taken with a work's last vector is the next one's
            owner = Mux(all_end, self.work.payload.index, owner)
        self._check(m, step & takes, ends, owner, halted)

        m.d.comb += [
            step.eq(
                active & ~halted & ~sides_due & (~takes | Cat(b.valid for b in self.beats).all())
                & (~gives | ~vectors.valid | vectors.ready)
            ),
            produce.eq(step & gives),
            boundary.eq(produce & half_end),
            block_end.eq(half_end & (half == HALVES - 1)),
            pass_end.eq(block_end & final_block),
            all_end.eq(pass_end & final_pass),
            self.work.ready.eq((~active & ~halted) | (produce & all_end)),
        ]  # fmt: skip
        for port, beats in enumerate(self.beats):
            m.d.comb += beats.ready.eq((step & takes) | self._side_open[port])

        item = data_register(m, vectors.payload, "vector")
        with m.If(vectors.ready):
            m.d.sync += vectors.valid.eq(0)
        with m.If(produce):
            m.d.sync += [
                vectors.valid.eq(1),
                item.codes.eq(codes),
                item.ws.eq(scales),
                item.bias.eq(biases),
                item.first.eq(first & ~work.more),
                item.end.eq(pass_end),
                item.last.eq(all_end),
                item.bank.eq(work.acc_bank),
                item.column.eq(column),
                item.exponent.eq(work.exponent),
                index.eq(index + 1),
                half_end.eq(half_ends),
                column.eq(Mux(pass_end, 0, column + 1)),
            ]
            with m.If(half_end):
                m.d.sync += half.eq(half + 1)
            with m.If(block_end):
                m.d.sync += [
                    biased.eq(following_biased),
                    blocks_left.eq(Mux(final_block, work.blocks - 1, blocks_left - 1)),
                ]
                if self.ports > 1:
                    m.d.sync += parity.eq(~parity)
            with m.If(pass_end):
                m.d.sync += [passes_left.eq(passes_left - 1), first.eq(0)]
            with m.If(all_end):
                m.d.sync += active.eq(0)
        with m.If(self.work.valid & self.work.ready):
            following = self.work.payload
            m.d.sync += [
                active.eq(1),
                work.eq(following),
                passes_left.eq(Mux(following.dual, following.groups << 1, following.groups) - 1),
                blocks_left.eq(following.blocks - 1),
                first.eq(1),
                column.eq(0),
            ]
        return m

    def _sides(
        self, m: Module, half: Signal, parity: Signal, biased: Value, following_biased: Value,
        boundary: Value, produce: Value, half_ends: Value, known: Value, early_known: Value,
    ) -> tuple[Value, Signal, Signal]:  # fmt: skip
        """Beats that are not codes. Returns: some are due; scales and biases, the next one lowest.

        `_side_open`, by port: a beat that is taken now is one of them. half_ends: with
        `produce`, the next vector is the last one before the boundary. known: the work of what is
        due is here. early_known: the work of what is due after the boundary is.
        """
        scales = Signal(BEAT, reset_less=True)
        biases = Signal(BEAT, reset_less=True)
        with m.If(produce):
            m.d.sync += [scales.eq(scales[16:]), biases.eq(biases[32:])]
        registers = {"scales": scales, "bias": biases}
        # The last step takes no beat of codes, if there is one without.
        early = not self.steps[-1].take
        all_due: list[Signal] = []
        self._side_open: list[Signal] = []
        for port, beats in enumerate(self.beats):
            start = [what for what, offset in SIDE_BEATS[0] if offset % self.ports == port]
            due = {k: Signal(name=f"{k}_due_{port}", init=k in start) for k in registers}
            coming = {k: Signal(name=f"{k}_coming_{port}", reset_less=True) for k in registers}
            for what in registers:
                m.d.sync += coming[what].eq(
                    self._coming(what, port, half, parity, biased, following_biased)
                )
            # With the last vector before the boundary, in a register: `produce` comes late.
            then = {k: Signal(name=f"{k}_then_{port}") for k in registers}
            with m.If(produce):
                m.d.sync += [then[k].eq(half_ends & coming[k]) for k in registers]
            is_open = Signal(name=f"side_open_{port}")
            self._side_open.append(is_open)
            now = {
                k: (due[k] & known) | (produce & then[k] & early_known & early) for k in registers
            }
            m.d.comb += is_open.eq(Cat(now.values()).any())
            others: Value = Const(0)  # due before this kind
            for what, register in registers.items():
                accept = Signal(name=f"{what}_taken_{port}")
                m.d.comb += accept.eq(beats.valid & now[what] & ~others)
                with m.If(accept):
                    m.d.sync += [register.eq(beats.payload.data), due[what].eq(0)]
                with m.Elif(boundary):
                    m.d.sync += due[what].eq(coming[what])
                others = others | now[what]
            all_due += due.values()
        return Cat(all_due).any(), scales, biases

    def _coming(
        self, what: str, port: int, half: Signal, parity: Signal, biased: Value,
        following_biased: Value,
    ) -> Value:  # fmt: skip
        """Whether a port has such a beat before the next half of a block."""
        conditions: list[Value] = []
        for before, sides in enumerate(SIDE_BEATS):
            last = before == 0  # the half before is the last one of its block
            is_next = half == (before - 1) % HALVES
            for name, offset in sides:
                if name != what:
                    continue
                here: Value = Const(1)
                if self.ports > 1:
                    block = ~parity if last else parity
                    here = (block ^ (offset & 1)) == port
                if what == "bias":
                    here = here & (following_biased if last else biased)
                conditions.append(is_next & here)
        return Cat(conditions).any()

    def _check(
        self, m: Module, codes_taken: Value, ends: Value, owner: Value, halted: Signal
    ) -> None:
        """Compares `last` of every beat that is taken with the place in the pass.

        ends: a beat of codes that is taken now is the last one of its pass. No other beat is.
        owner: `index` of the work of what is taken.
        """
        surplus, missing = [], []
        for port, beats in enumerate(self.beats):
            last = beats.payload.last
            surplus.append(codes_taken & ends & ~last)
            side = beats.valid & self._side_open[port]
            missing.append(last & ((codes_taken & ~ends) | side))
        with m.If(~halted):
            m.d.sync += [
                self.index.eq(owner),
                self.surplus.eq(Cat(surplus).any()),
                self.missing.eq(Cat(missing).any() & ~Cat(surplus).any()),
                halted.eq(Cat(*surplus, *missing).any()),
            ]

    def _gear(self, m: Module, step: Value) -> tuple[Value, Value, Value]:
        """(this step takes a beat from each port, gives a vector, its codes)."""
        steps = self.steps
        phase = Signal(range(max(2, len(steps))))
        with m.If(step):
            m.d.sync += phase.eq(Mux(phase == len(steps) - 1, 0, phase + 1))
        width, max_left = GROUP // self.ports * self.bits, max(s.left for s in steps)
        parts = []
        for port, beats in enumerate(self.beats):
            leftover = Signal(max_left, name=f"held_{port}", reset_less=True)
            part = Signal(width, name=f"part_{port}")
            with m.Switch(phase):
                for number, s in enumerate(steps):
                    with m.Case(number):
                        bits = Cat(
                            leftover[max_left - s.left :],
                            beats.payload.data if s.take else Const(0, 0),
                        )
                        m.d.comb += part.eq(bits[:width])
                        if s.take and max_left:
                            with m.If(step):
                                m.d.sync += leftover.eq(beats.payload.data[BEAT - max_left :])
            parts.append(part)

        def known(name: str) -> Value:
            numbers = [i for i, s in enumerate(steps) if getattr(s, name)]
            every = len(numbers) == len(steps)
            return Const(1) if every else Cat(phase == i for i in numbers).any()

        return known("take"), known("give"), Cat(parts)
