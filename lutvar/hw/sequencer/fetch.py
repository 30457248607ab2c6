# SPDX-License-Identifier: Apache-2.0
"""Unit FETCH: weight panels from memory to the array."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.links import BEAT, BEAT_ADDRESS, axi_read, unit_members

READINGS = 9  #: bits of the readings of an instruction's panels: ``panels * repeat``
AHEAD = 8  #: instructions whose beats may be requested but not yet handed out


class FetchUnit(wiring.Component):
    """Reads panels and hands their beats to the array, ``config.weight_fifo`` beats ahead.

    An instruction is done when its last beat has left the FIFO. Requests of the next instructions
    follow those of the current one without a gap.

    Members: ``links.unit_members(Opcode.FETCH)``, ``memory``, and ``weights``: beats in order, the
    payload from a register.

    Latency: 6 cycles from ``command`` to ``arvalid``. Throughput: one beat in each cycle, also
    across panels and instructions; an instruction is begun every 2 cycles at most. With
    ``config.pipelined`` off, one burst at a time.
    """

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                **unit_members(Opcode.FETCH),
                "memory": Out(axi_read()),
                "weights": Out(stream.Signature(unsigned(BEAT))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        depth, serial = self._config.weight_fifo, not self._config.pipelined
        m.submodules.reader = reader = BurstReader(depth, serial=serial)
        wiring.connect(m, reader.memory, wiring.flipped(self.memory))
        m.d.comb += [
            reader.stop.eq(self.stop),
            self.quiet.eq(reader.quiet),
            self.error.eq(reader.error),
            self.error_address.eq(reader.error_address),
        ]
        # Instructions between the requests and the beats: one register each and a small ring.
        counts = data.StructLayout({"beats": 20, "readings": READINGS})
        ring = Signal(data.ArrayLayout(counts, AHEAD))
        put, get = Signal(range(AHEAD)), Signal(range(AHEAD))
        level = Signal(range(AHEAD + 1))
        begin, load = Signal(), Signal()
        asking = self._ask(m, reader, begin, level)
        command = self.command.payload
        with m.If(begin):
            m.d.sync += [
                ring[put].beats.eq(command.beats),
                ring[put].readings.eq(
                    Mux(command.repeat[1], command.panels << 1, command.panels)
                ),
            ]
        m.d.sync += [put.eq(put + begin), get.eq(get + load), level.eq(level + begin - load)]

        head = Signal(counts, reset_less=True)
        head_valid, refill = Signal(), Signal()
        giving = self._give(m, reader, head, head_valid, refill)
        # Not in the cycle of a refill, which comes from the array's ready: the path would be long.
        m.d.comb += load.eq((level != 0) & ~head_valid)
        with m.If(load):
            m.d.sync += head.eq(ring[get])
        m.d.sync += head_valid.eq(load | (head_valid & ~refill))
        m.d.sync += [
            self.busy.eq(begin | asking | (level != 0) | head_valid | giving),
            self.active.eq(reader.memory.rvalid | (self.weights.valid & self.weights.ready)),
        ]
        return m

    def _ask(self, m: Module, reader: BurstReader, begin: Signal, level: Signal) -> Signal:
        """Requests: one for each reading of a panel. Returns: an instruction is under way."""
        command = self.command.payload
        asking = Signal()
        address = Signal(BEAT_ADDRESS, reset_less=True)
        beats = Signal(20, reset_less=True)
        panels, repeat, again = Signal(8), Signal(2), Signal(2)
        request = reader.request
        m.d.comb += [
            self.command.ready.eq(~asking & ~level[-1]),
            begin.eq(self.command.valid & self.command.ready),
            request.valid.eq(asking),
            request.payload.address.eq(address << 6),
            request.payload.beats.eq(beats),
        ]
        with m.If(begin):
            m.d.sync += [
                asking.eq(1),
                address.eq(command.address[6:]),
                beats.eq(command.beats),
                panels.eq(command.panels),
                repeat.eq(command.repeat),
                again.eq(command.repeat),
            ]
        with m.Elif(asking & request.ready):
            m.d.sync += again.eq(again - 1)
            with m.If(again == 1):
                m.d.sync += [
                    again.eq(repeat),
                    panels.eq(panels - 1),
                    address.eq(address + beats),
                    asking.eq(panels != 1),
                ]
        return asking

    def _give(
        self, m: Module, reader: BurstReader, head: Any, head_valid: Signal, refill: Signal
    ) -> Signal:
        """Hands beats out and counts them. Returns: beats of an instruction are awaited."""
        giving = Signal()
        beats, left = Signal(20, reset_less=True), Signal(20, reset_less=True)
        last, one = Signal(), Signal()  # last beat of a reading; panels of a single beat
        readings = Signal(READINGS, reset_less=True)  # that are not handed out completely
        ending = Signal()  # only one of them is left
        taken, final = Signal(), Signal()
        m.d.comb += [
            self.weights.valid.eq(reader.data.valid & giving),
            self.weights.payload.eq(reader.data.payload),
            reader.data.ready.eq(self.weights.ready & giving),
            taken.eq(self.weights.valid & self.weights.ready),
            final.eq(taken & last & ending),
            refill.eq(head_valid & (~giving | final)),
        ]
        m.d.sync += self.done.eq(final)
        with m.If(refill):
            m.d.sync += [
                giving.eq(1),
                beats.eq(head.beats),
                left.eq(head.beats),
                one.eq(head.beats == 1),
                last.eq(head.beats == 1),
                readings.eq(head.readings),
                ending.eq(head.readings == 1),
            ]
        with m.Elif(taken):
            m.d.sync += [left.eq(left - 1), last.eq(left == 2)]
            with m.If(last):
                m.d.sync += [
                    left.eq(beats),
                    last.eq(one),
                    readings.eq(readings - 1),
                    ending.eq(readings == 2),
                ]
            with m.If(final):
                m.d.sync += giving.eq(0)
        return giving
