# SPDX-License-Identifier: Apache-2.0
"""Beats of a weight port to weight vectors, each with its scale and bias."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.memory import HALF_BLOCK, HALVES, SIDE_BEATS
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.links import BEAT, INDEX_BITS, weight_stream
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.pipeline import data_register


def work_layout() -> data.StructLayout:
    """What an instruction's share of a port's weights is: its operands of the same names, `index`.

    blocks: of 32 outputs, of those on the port.
    """
    return data.StructLayout({"groups": 8, "blocks": 9, "twice": 1, "index": INDEX_BITS})


def vector_item_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A weight vector: codes, FP16 scale, float32 bias.

    bias is meaningful in the passes of the first group only, whose panel has biases.
    """
    return data.StructLayout({"codes": GROUP * config.quant_config.code_bits, "ws": 16, "bias": 32})


@dataclass(frozen=True)
class GearStep:
    """What is done in a step, with `left` bits left of the last beat.

    Attributes:
        take: the next beat is taken.
        give: the bits make a vector.
    """

    left: int
    take: bool
    give: bool


def gear_steps(width: int) -> list[GearStep]:
    """Steps from beats to vectors of `width` bits until nothing is left over.

    Wider vectors than a beat take two steps now and then.
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
    """Follows the layout of a port's share of weight panels (`contract/memory`) through its work.

    Latency 1. A beat in each cycle: a vector from each beat of codes at 4 bits, two from three at 6
    bits, none from a beat of scales or biases. So at the best 32 vectors take 33 cycles (49 at 6
    bits), and 2 more in each pass of group 0. No cycle is lost between passes or, when the next
    work is here in time, between works.

    Invariant: a work takes the beats of its passes and no others: for each pass those of one
    reading, of which the last one has `last`. A beat is taken only while its work is here. A beat
    that breaks the rule, `last` before the end of a pass or an end without `last`, is reported and
    is the last one that is taken: from the next cycle on nothing more is taken or produced until
    reset.
    """

    work: Stream  #: in: what comes next; taken when the work before is used up
    beats: Stream  #: in: panels, each once, or twice for a dual format
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
        self.steps = gear_steps(GROUP * self.bits)
        # So the last beat of a pass comes with its last vector.
        assert self.steps[-1].take
        super().__init__(
            {
                "work": In(stream.Signature(work_layout())),
                "beats": In(weight_stream()),
                "vectors": Out(stream.Signature(vector_item_layout(config))),
                "surplus": Out(1),
                "missing": Out(1),
                "index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        vectors, beats = self.vectors, self.beats
        active, halted = Signal(name="active"), Signal(name="halted")
        work = view_signal(work_layout(), reset_less=True)
        passes_left = Signal(9, reset_less=True)  # after this one
        blocks_left = Signal(9, reset_less=True)  # after this one
        first, biased = Signal(name="first", reset_less=True), Signal(name="biased", init=1)
        # Known long before the last vector of a block, so a cycle late does not matter.
        final_pass = Signal(name="final_pass", reset_less=True)
        final_block = Signal(name="final_block", reset_less=True)
        m.d.sync += [final_pass.eq(passes_left == 0), final_block.eq(blocks_left == 0)]

        # Place in the block.
        half = Signal(range(HALVES))
        place = Signal(range(HALF_BLOCK))
        half_end = Signal()
        step, produce, boundary, block_end, pass_end, all_end = (
            Signal(name=n)
            for n in ("step", "produce", "boundary", "block_end", "pass_end", "all_end")
        )
        following_biased = Mux(final_block, Mux(final_pass, Const(1), first & work.twice), biased)
        known = active & ~halted
        scales, biases = self._sides(m, half, biased, following_biased, boundary, known)
        takes, gives, codes = self._gear(m, step)
        # The last beat of codes comes with the last vector of a pass.
        ends = half_end & (half == HALVES - 1) & final_block
        self._check(m, step & takes, ends, work.index, halted)

        m.d.comb += [
            step.eq(
                known & ~self._sides_due & (~takes | beats.valid)
                & (~gives | ~vectors.valid | vectors.ready)
            ),
            produce.eq(step & gives),
            boundary.eq(produce & half_end),
            block_end.eq(half_end & (half == HALVES - 1)),
            pass_end.eq(block_end & final_block),
            all_end.eq(pass_end & final_pass),
            self.work.ready.eq((~active & ~halted) | (produce & all_end)),
            beats.ready.eq((step & takes) | self._side_open),
        ]  # fmt: skip

        item = data_register(m, vectors.payload, "vector")
        with m.If(vectors.ready):
            m.d.sync += vectors.valid.eq(0)
        with m.If(produce):
            m.d.sync += [
                vectors.valid.eq(1),
                item.codes.eq(codes),
                item.ws.eq(_pick(scales, 16, Cat(place, half))),
                item.bias.eq(_pick(biases, 32, place)),
                place.eq(place + 1),
                half_end.eq(place == HALF_BLOCK - 2),
            ]
            with m.If(half_end):
                m.d.sync += half.eq(half + 1)
            with m.If(block_end):
                m.d.sync += [
                    biased.eq(following_biased),
                    blocks_left.eq(Mux(final_block, work.blocks - 1, blocks_left - 1)),
                ]
            with m.If(pass_end):
                m.d.sync += [passes_left.eq(passes_left - 1), first.eq(0)]
            with m.If(all_end):
                m.d.sync += active.eq(0)
        with m.If(self.work.valid & self.work.ready):
            following = self.work.payload
            m.d.sync += [
                active.eq(1),
                work.eq(following),
                passes_left.eq(Mux(following.twice, following.groups << 1, following.groups) - 1),
                blocks_left.eq(following.blocks - 1),
                first.eq(1),
            ]
        return m

    def _sides(
        self, m: Module, half: Signal, biased: Value, following_biased: Value, boundary: Value,
        known: Value,
    ) -> tuple[Signal, Signal]:  # fmt: skip
        """Beats that are not codes. Returns: the block's scales, the biases of its half.

        `_sides_due`: some are due. `_side_open`: a beat that is taken now is one of them. known:
        the work of what is due is here.
        """
        scales = Signal(BEAT, reset_less=True)
        biases = Signal(BEAT, reset_less=True)
        registers = {"scales": scales, "bias": biases}
        due = {k: Signal(name=f"{k}_due", init=k in SIDE_BEATS[0]) for k in registers}
        coming = {k: Signal(name=f"{k}_coming", reset_less=True) for k in registers}
        self._sides_due = Cat(due.values()).any()
        self._side_open = Signal(name="side_open")
        m.d.comb += self._side_open.eq(self._sides_due & known)
        others: Value = Const(0)  # due before this kind
        for what, register in registers.items():
            m.d.sync += coming[what].eq(self._coming(what, half, biased, following_biased))
            accept = Signal(name=f"{what}_taken")
            m.d.comb += accept.eq(self.beats.valid & known & due[what] & ~others)
            with m.If(accept):
                m.d.sync += [register.eq(self.beats.payload.data), due[what].eq(0)]
            with m.Elif(boundary):
                m.d.sync += due[what].eq(coming[what])
            others = others | due[what]
        return scales, biases

    def _coming(self, what: str, half: Signal, biased: Value, following_biased: Value) -> Value:
        """Whether there is such a beat before the next half of a block."""
        conditions: list[Value] = []
        for before, sides in enumerate(SIDE_BEATS):
            if what not in sides:
                continue
            here = half == (before - 1) % HALVES
            if what == "bias":  # the half before the first one is the last one of its block
                here = here & (biased if before else following_biased)
            conditions.append(here)
        return Cat(conditions).any()

    def _check(
        self, m: Module, codes_taken: Value, ends: Value, owner: Value, halted: Signal
    ) -> None:
        """Compares `last` of every beat that is taken with the place in the pass.

        ends: a beat of codes that is taken now is the last one of its pass. No other beat is.
        owner: `index` of the work of what is taken.
        """
        last, side = self.beats.payload.last, self.beats.valid & self._side_open
        surplus, missing = Signal(name="surplus_now"), Signal(name="missing_now")
        m.d.comb += [
            surplus.eq(codes_taken & ends & ~last),
            missing.eq(last & ((codes_taken & ~ends) | side)),
        ]
        with m.If(~halted):
            m.d.sync += [
                self.index.eq(owner),
                self.surplus.eq(surplus),
                self.missing.eq(missing),
                halted.eq(surplus | missing),
            ]

    def _gear(self, m: Module, step: Value) -> tuple[Value, Value, Value]:
        """(this step takes a beat, gives a vector, its codes)."""
        steps = self.steps
        phase = Signal(range(max(2, len(steps))))
        with m.If(step):
            m.d.sync += phase.eq(Mux(phase == len(steps) - 1, 0, phase + 1))
        width, max_left = GROUP * self.bits, max(s.left for s in steps)
        leftover = Signal(max_left, name="held", reset_less=True)
        codes = Signal(width, name="codes")
        with m.Switch(phase):
            for number, s in enumerate(steps):
                with m.Case(number):
                    bits = Cat(
                        leftover[max_left - s.left :],
                        self.beats.payload.data if s.take else Const(0, 0),
                    )
                    m.d.comb += codes.eq(bits[:width])
                    if s.take and max_left:
                        with m.If(step):
                            m.d.sync += leftover.eq(self.beats.payload.data[BEAT - max_left :])

        def known(name: str) -> Value:
            numbers = [i for i, s in enumerate(steps) if getattr(s, name)]
            every = len(numbers) == len(steps)
            return Const(1) if every else Cat(phase == i for i in numbers).any()

        return known("take"), known("give"), codes


def _pick(beat: Value, width: int, place: Value) -> Value:
    """A word of a beat. A tree of multiplexers takes fewer LUTs than the beat as a shift register
    with parallel load."""
    words = [beat[low : low + width] for low in range(0, BEAT, width)]
    for bit in place:
        words = [Mux(bit, b, a) for a, b in zip(words[::2], words[1::2], strict=True)]
    return words[0]
