# SPDX-License-Identifier: Apache-2.0
"""Drains accumulators into the block buffer, two columns of 16 rows in each cycle."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.sections import section_heads
from lutvar.contract.widths import drain_latency
from lutvar.hw.links import drain_layout, sections_of
from lutvar.hw.port_types import Stream, View, view_signal
from lutvar.hw.units.pipeline import delay, valid_line

from .orders import drain_order
from .transpose import PAIRS, SLOTS


class Drain(wiring.Component):
    """Requests pairs of columns of whole blocks, as long as the block buffer has free slots.

    Latency 2 cycles from an order to its first request, `drain_latency` more to the values.
    Throughput: a request in each cycle, also across blocks; a cycle more between instructions.
    """

    order: Stream  #: in: instructions (`drain_order`)
    request: View  #: out: pairs of columns to read, to the matrix unit
    write: Signal  #: out: the values of a request are there: to the block buffer
    write_slot: Signal  #: out: slot of the block buffer that they go to
    write_pair: Signal  #: out: pair of columns that they are
    release: Signal  #: in: one cycle: the oldest block was read and its slot is free

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "order": In(stream.Signature(drain_order(config))),
                "request": Out(drain_layout(config)),
                "write": Out(1),
                "write_slot": Out(range(SLOTS)),
                "write_pair": Out(range(PAIRS)),
                "release": In(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        order = view_signal(drain_order(self.config), reset_less=True)
        running = Signal()
        left = Signal(8, reset_less=True)  # blocks, the current one included
        block = Signal(8, reset_less=True)
        pair = Signal(range(PAIRS))
        slot = Signal(range(SLOTS))
        free = Signal(range(SLOTS + 1), init=SLOTS)

        head, place = self._section(m, order.sections, block)
        fire = Signal()
        end = Signal()
        claim = Signal()
        m.d.comb += [
            fire.eq(running & ((pair != 0) | (free != 0))),
            claim.eq(fire & (pair == 0)),
            end.eq(fire & (pair == PAIRS - 1)),
            self.order.ready.eq(~running | (end & (left == 1))),
        ]
        m.d.sync += [free.eq(free + self.release - claim), self.request.valid.eq(fire)]
        with m.If(fire):
            m.d.sync += [
                pair.eq(pair + 1),
                self.request.bank.eq(order.bank),
                self.request.row_group.eq(order.row_group + head),
                self.request.column.eq(Cat(pair, place)),
            ]
        with m.If(end):
            m.d.sync += [slot.eq(slot + 1), block.eq(block + 1), left.eq(left - 1)]
        with m.If(self.order.ready):
            m.d.sync += [
                running.eq(self.order.valid),
                order.eq(self.order.payload),
                left.eq(self.order.payload.blocks),
                block.eq(0),
            ]

        latency = drain_latency(self.config)
        here = valid_line(m, fire, latency + 1, "here")
        where = delay(m, Cat(pair, slot), latency + 1, "where")
        m.d.comb += [self.write.eq(here[-1]), Cat(self.write_pair, self.write_slot).eq(where)]
        return m

    def _section(self, m: Module, sections: Value, block: Value) -> tuple[Value, Value]:
        """First row group of the section that has a block, and the block's number there."""
        groups, counts = self.config.row_groups, sections_of(self.config)
        if len(counts) == 1:
            return Const(0), block
        head, place = Signal(range(groups), name="head"), Signal(len(block), name="place")
        with m.Switch(sections):
            for number, count in enumerate(counts):
                with m.Case(number):
                    m.d.comb += place.eq(block >> number)
                    for section, link in enumerate(section_heads(groups, count)):
                        if link:
                            with m.If(block[:number] == section):
                                m.d.comb += head.eq(link)
        return head, place
