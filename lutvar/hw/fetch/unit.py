# SPDX-License-Identifier: Apache-2.0
"""Unit FETCH: weight panels from memory to the array."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode
from lutvar.hw.axi.reader import BurstReader
from lutvar.hw.links import (
    BEAT_ADDRESS,
    UnitComponent,
    axi_read,
    connect_masters,
    memory_members,
    unit_members,
    weight_stream,
)
from lutvar.hw.port_types import AxiReadPort, Stream, view_signal
from lutvar.hw.units.count import Level

from .handout import Handout, counts_layout

AHEAD = 8  #: instructions whose beats may be requested but not yet handed out
IN_HANDOUT = 2  #: instructions that a port has begun: one gives beats, the next one waits


class FetchUnit(UnitComponent):
    """Reads panels and hands their beats to the array, `config.weight_fifo` beats ahead.

    With two weight ports (`config.weight_ports`) each reads one half of every panel, at the same
    address plus half the panel's beats, which are an even number then. An instruction is done when
    its last beat has left the FIFO (or the last of both FIFOs). On each port the last beat of every
    reading of a panel is marked. Requests of the next instructions follow those of the current one
    without a gap.

    Latency: 6 cycles from `command` to `arvalid`. Throughput: one beat in each cycle and port,
    also across panels and instructions; an instruction is begun every 2 cycles at most. With
    `config.pipelined` off, one burst at a time.
    """

    memory: list[AxiReadPort]  #: out: reads of panels, one for each weight port
    #: out: beats in order, for each weight port; data and `last` are registers'. A port may be up
    #: to `AHEAD + IN_HANDOUT` instructions ahead of the other one
    weights: list[Stream]

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                **unit_members(Opcode.FETCH),
                **memory_members(config.weight_ports),
                "memory": Out(axi_read()).array(config.weight_ports),
                "weights": Out(weight_stream()).array(config.weight_ports),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        depth, serial, ports = (
            self._config.weight_fifo, not self._config.pipelined, self._config.weight_ports
        )  # fmt: skip
        readers = [BurstReader(depth, serial=serial) for _ in range(ports)]
        handouts = [Handout() for _ in range(ports)]
        for port, (reader, handout) in enumerate(zip(readers, handouts, strict=True)):
            m.submodules[f"reader_{port}"] = reader
            m.submodules[f"handout_{port}"] = handout
            wiring.connect(m, reader.memory, wiring.flipped(self.memory[port]))
            wiring.connect(m, reader.data, handout.beats)
            wiring.connect(m, handout.weights, wiring.flipped(self.weights[port]))
        m.d.comb += self.idle.eq(Cat(reader.idle for reader in readers).all())
        connect_masters(m, self, readers)
        begin = Signal()
        levels = self._ring(m, begin, handouts)
        asking = self._ask(m, readers, begin, Cat(level[-1] for level in levels).any())
        self._done(m, handouts)
        m.d.sync += [
            self.busy.eq(
                begin | asking | Cat(level != 0 for level in levels).any()
                | Cat(handout.busy for handout in handouts).any()
            ),
            self.active.eq(
                Cat(reader.memory.rvalid for reader in readers).any()
                | Cat(w.valid & w.ready for w in self.weights).any()
            ),
        ]  # fmt: skip
        return m

    def _ring(self, m: Module, begin: Signal, handouts: Sequence[Handout]) -> list[Signal]:
        """Instructions between the requests and the beats: a small ring, read by each port.

        Returns: how many each port has not begun.
        """
        command, share = self.command.payload, len(handouts) - 1
        ring = view_signal(data.ArrayLayout(counts_layout(), AHEAD))
        put = Signal(range(AHEAD))
        with m.If(begin):
            m.d.sync += [
                ring[put].beats.eq(command.beats >> share),
                ring[put].readings.eq(Mux(command.repeat[1], command.panels << 1, command.panels)),
            ]
        m.d.sync += put.eq(put + begin)
        levels = []
        for port, handout in enumerate(handouts):
            get = Signal(range(AHEAD), name=f"get_{port}")
            level = Signal(range(AHEAD + 1), name=f"level_{port}")
            load = Signal(name=f"load_{port}")
            counts = handout.counts
            m.d.comb += [
                Value.cast(counts.payload).eq(Value.cast(ring[get])),
                counts.valid.eq(level != 0),
                load.eq(counts.valid & counts.ready),
            ]
            m.d.sync += [get.eq(get + load), level.eq(level + begin - load)]
            levels.append(level)
        return levels

    def _done(self, m: Module, handouts: Sequence[Handout]) -> None:
        """An instruction is done when every port has brought its beats of it."""
        if len(handouts) == 1:
            m.d.sync += self.done.eq(handouts[0].done)
            return
        every = Signal()
        ahead = [
            Level(m, f"finished_{port}", AHEAD + IN_HANDOUT, handout.done, every)
            for port, handout in enumerate(handouts)
        ]
        m.d.comb += every.eq(Cat(level.some for level in ahead).all())
        m.d.sync += self.done.eq(every)

    def _ask(self, m: Module, readers: Sequence[BurstReader], begin: Signal, full: Value) -> Signal:
        """Requests: one for each reading of a panel. Returns: an instruction is under way.

        Two ports are asked in the same cycle: each has room for requests beyond the current one.
        """
        command = self.command.payload
        asking = Signal()
        address = Signal(BEAT_ADDRESS, reset_less=True)
        beats = Signal(20, reset_less=True)
        panels, repeat, again = Signal(8), Signal(2), Signal(2)
        share = len(readers) - 1  # halvings of a panel
        addresses = [address, Signal(BEAT_ADDRESS, reset_less=True, name="second")][: share + 1]
        accepted = Signal()
        m.d.comb += [
            self.command.ready.eq(~asking & ~full),
            begin.eq(self.command.valid & self.command.ready),
            accepted.eq(Cat(reader.request.ready for reader in readers).all()),
        ]
        for reader, start in zip(readers, addresses, strict=True):
            request = reader.request
            others = [other.request.ready for other in readers if other is not reader]
            m.d.comb += [
                request.valid.eq(asking & Cat(Const(1), *others).all()),
                request.payload.address.eq(start << 6),
                request.payload.beats.eq(beats >> share),
            ]
        with m.If(begin):
            m.d.sync += [
                asking.eq(1),
                *(
                    start.eq(command.address[6:] + (command.beats >> share if number else 0))
                    for number, start in enumerate(addresses)
                ),
                beats.eq(command.beats),
                panels.eq(command.panels),
                repeat.eq(command.repeat),
                again.eq(command.repeat),
            ]
        with m.Elif(asking & accepted):
            m.d.sync += again.eq(again - 1)
            with m.If(again == 1):
                m.d.sync += [
                    again.eq(repeat),
                    panels.eq(panels - 1),
                    *(start.eq(start + beats) for start in addresses),
                    asking.eq(panels != 1),
                ]
        return asking
