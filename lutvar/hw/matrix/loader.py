# SPDX-License-Identifier: Apache-2.0
"""Loads the operand of each pass into the row groups, ahead of the weights."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.widths import WORDS
from lutvar.hw.port_types import Stream, View

from .chain import load_layout, operand_words
from .forms import DotTiming
from .operands import load_interval, operand_latency


def operand_layout(config: AcceleratorConfig) -> data.StructLayout:
    """What the operands of an instruction are: address of the bank's first word, and how many."""
    return data.StructLayout({"address": range(operand_words(config)), "groups": 8, "dual": 1})


class OperandLoader(wiring.Component):
    """Reads the groups of a bank: 8 words for each pass, then waits for the pass to start.

    An operand is ready `cycles` cycles after the start of the one before, or
    `cycles - hold + 1` after its work was taken.
    """

    work: Stream  #: in: what comes next; taken when the work before is loaded and started
    load_valid: Signal  #: out: a word is to be read, registered
    load: View  #: out: the word to read, registered
    ready: Signal  #: out: the next pass's operand may be started
    start: Signal  #: in: it is started in this cycle

    def __init__(self, config: AcceleratorConfig, dot: DotTiming) -> None:
        self.config = config
        #: From the cycle after the last word was sent to ready: memory, register, settling.
        latency = operand_latency(config)
        self.settle = latency + dot.settle
        #: From start to the cycle in which the next pass may begin; its first word reaches the dot
        #: product two registers and the memory's latency later.
        self.hold = max(1, dot.hold - latency - 2)
        self.interval = max(dot.interval, load_interval(config))
        self.cycles = self.hold + (WORDS - 1) * self.interval + 2 + self.settle
        super().__init__(
            {
                "work": In(stream.Signature(operand_layout(config))),
                "load_valid": Out(1),
                "load": Out(load_layout(config)),
                "ready": Out(1),
                "start": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        active = Signal()
        dual = Signal(reset_less=True)
        negative = Signal(reset_less=True)
        groups_left = Signal(8, reset_less=True)  # after this one
        address = Signal(len(self.load.address), reset_less=True)
        word = Signal(range(WORDS))
        loading = Signal()
        timer = Signal(range(max(self.settle, self.hold, self.interval) + 1))
        waiting = Signal()  # for the timer, after the last word; then loaded
        final = Signal()
        # Known long before the start that asks, so a cycle late does not matter.
        last_group = Signal(reset_less=True)
        m.d.sync += last_group.eq(groups_left == 0)
        done = Signal()

        m.d.comb += [
            final.eq(~negative & last_group),
            done.eq(self.start & final),
            self.work.ready.eq(~active | done),
        ]
        m.d.sync += [
            self.load_valid.eq(loading & (timer == 0)),
            self.load.address.eq(address),
            self.load.word.eq(word),
            self.load.dual.eq(dual),
            self.load.negative.eq(negative),
        ]
        begin = Signal()  # a pass is known and its words may be read
        with m.If(timer != 0):
            m.d.sync += timer.eq(timer - 1)
        with m.If(loading & (timer == 0)):
            m.d.sync += [address.eq(address + 1), word.eq(word + 1), timer.eq(self.interval - 1)]
            with m.If(word == WORDS - 1):
                m.d.sync += [loading.eq(0), waiting.eq(1), timer.eq(self.settle - 1)]
        with m.If(waiting & (timer == 0)):
            m.d.sync += [waiting.eq(0), self.ready.eq(1)]
        with m.If(self.start):
            m.d.sync += [self.ready.eq(0), timer.eq(self.hold - 1)]
            with m.If(negative):  # the other half of the same codes
                m.d.sync += [negative.eq(0), address.eq(address - WORDS)]
            with m.Else():
                m.d.sync += [negative.eq(dual), groups_left.eq(groups_left - 1)]
            with m.If(final):
                m.d.sync += active.eq(0)
        with m.If(self.work.valid & self.work.ready):
            following = self.work.payload
            m.d.sync += [
                active.eq(1),
                address.eq(following.address),
                dual.eq(following.dual),
                negative.eq(following.dual),
                groups_left.eq(following.groups - 1),
            ]
        m.d.comb += begin.eq(active & ~loading & ~waiting & ~self.ready & (timer == 0))
        with m.If(begin):
            m.d.sync += loading.eq(1)
        return m
