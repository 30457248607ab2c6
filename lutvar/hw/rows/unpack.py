# SPDX-License-Identifier: Apache-2.0
"""Beats of weight panels to weight vectors, each with its scale, bias and place in the work."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.config import GROUP
from lutvar.contract.memory import BIAS_BEATS
from lutvar.hw.links import BEAT


def work_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the weights of an instruction are: its operands of the same names."""
    return data.StructLayout(
        {
            "groups": 8,
            "blocks": 9,
            "dual": 1,
            "acc_bank": range(config.acc_banks),
            "exponent": signed(6),
            "more": 1,
        }
    )


def vector_item_layout(config: AcceleratorConfig) -> data.StructLayout:
    """A weight vector.

    bias is meaningful with ``first`` only, which marks the first pass of group 0 unless the
    instruction goes on from older sums (``more``). end: the last
    vector of a pass. last: of an instruction.
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


class WeightUnpack(wiring.Component):
    """Follows the layout of weight panels (``contract/memory``) through an instruction.

    Members:
        work: what comes next; taken when the work before is used up.
        beats: panels, each once, or twice for a dual format.
        vectors: weight vectors in order; payload from a register.

    Latency 1. A beat in each cycle: a vector from each beat of codes at 4 bits, two from three at 6
    bits, none from a beat of scales or biases. So at the best 32 vectors take 33 cycles (49 at 6
    bits), and 2 more in each pass of group 0. No cycle is lost between passes or instructions.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        self.bits = config.quant_config.code_bits
        if self.bits not in (4, 6):
            raise ValueError(f"codes of {self.bits} bits; weight beats hold codes of 4 or 6 bits")
        super().__init__(
            {
                "work": In(stream.Signature(work_layout(config))),
                "beats": In(stream.Signature(BEAT)),
                "vectors": Out(stream.Signature(vector_item_layout(config))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        vectors, beat = self.vectors, self.beats.payload
        active = Signal()
        work = Signal(self.work.payload.shape(), reset_less=True)
        passes_left = Signal(9, reset_less=True)  # after this one
        blocks_left = Signal(9, reset_less=True)  # after this one
        first, biased = Signal(reset_less=True), Signal(reset_less=True)
        column = Signal(len(vectors.payload.column), reset_less=True)

        # Place in the block: the beat of scales, beats of biases, vectors.
        is_scale, is_bias = Signal(init=1), Signal()
        bias_beat = Signal(range(BIAS_BEATS))
        index = Signal(range(WEIGHT_BLOCK))
        whole, codes = self._gear(m, beat, is_scale | is_bias)

        take, produce, block_end, pass_end, all_end = (
            Signal(name=n) for n in ("take", "produce", "block_end", "pass_end", "all_end")
        )
        is_codes = ~(is_scale | is_bias)
        m.d.comb += [
            self.beats.ready.eq(active & (~(is_codes & whole) | ~vectors.valid | vectors.ready)),
            take.eq(self.beats.valid & self.beats.ready),
            self._taken.eq(take),
            produce.eq(take & is_codes & whole),
            block_end.eq(index == WEIGHT_BLOCK - 1),
            pass_end.eq(block_end & (blocks_left == 0)),
            all_end.eq(pass_end & (passes_left == 0)),
            self.work.ready.eq(~active | (produce & all_end)),
        ]

        scales, biases = Signal(BEAT, reset_less=True), Signal(32 * WEIGHT_BLOCK, reset_less=True)
        with m.If(take & is_scale):
            m.d.sync += [scales.eq(beat), is_scale.eq(0), is_bias.eq(biased)]
        with m.If(take & is_bias):
            m.d.sync += [
                biases.eq(Cat(biases[BEAT:], beat)),
                bias_beat.eq(bias_beat + 1),
                is_bias.eq(bias_beat != BIAS_BEATS - 1),
            ]
        with m.If(vectors.ready):
            m.d.sync += vectors.valid.eq(0)
        with m.If(produce):
            item = vectors.payload
            m.d.sync += [
                vectors.valid.eq(1),
                item.codes.eq(codes),
                item.ws.eq(scales),
                item.bias.eq(biases),
                item.first.eq(first),
                item.end.eq(pass_end),
                item.last.eq(all_end),
                item.bank.eq(work.acc_bank),
                item.column.eq(column),
                item.exponent.eq(work.exponent),
                scales.eq(scales[16:]),
                biases.eq(biases[32:]),
                index.eq(index + 1),
                column.eq(Mux(pass_end, 0, column + 1)),
                is_scale.eq(block_end),
            ]
            with m.If(block_end):
                m.d.sync += blocks_left.eq(Mux(pass_end, work.blocks - 1, blocks_left - 1))
            with m.If(pass_end):
                m.d.sync += [
                    passes_left.eq(passes_left - 1),
                    first.eq(0),
                    biased.eq(first & work.dual),
                ]
            with m.If(all_end):
                m.d.sync += active.eq(0)
        with m.If(self.work.valid & self.work.ready):
            following = self.work.payload
            m.d.sync += [
                active.eq(1),
                work.eq(following),
                passes_left.eq(Mux(following.dual, following.groups << 1, following.groups) - 1),
                blocks_left.eq(following.blocks - 1),
                first.eq(~following.more),
                biased.eq(~following.more),
                column.eq(0),
            ]
        return m

    def _gear(self, m: Module, beat: Value, other: Value) -> tuple[Value, Value]:
        """(this beat of codes completes a vector, its codes)."""
        self._taken = taken = Signal(name="beat_taken")
        if self.bits == 4:
            return Const(1), beat
        # Vector 0: beat 0 and the low half of beat 1; vector 1: the high half, and beat 2.
        half = BEAT // 2
        held = Signal(BEAT, reset_less=True)
        phase = Signal(2)
        with m.If(taken & ~other):
            m.d.sync += [held.eq(beat), phase.eq(Mux(phase == 2, 0, phase + 1))]
        return phase != 0, Mux(phase[0], Cat(held, beat[:half]), Cat(held[half:], beat))
