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

    Each weight port (`config.weight_ports`) reads its share of every panel; the shares lie one
    after the other in memory. A port may have none in an instruction. An instruction is done when
    the last of its beats has left the FIFO of every port. On each port the last beat of every
    reading of a panel is marked. Requests of the next instructions follow those of the current one
    without a gap.

    Latency: 6 cycles from `command` to the first port's `arvalid`, and one more for each port.
    Throughput: one beat in each cycle and port, also across panels and instructions; a reading of a
    port's share is requested in each cycle, port after port, and an instruction is begun every 2
    cycles at most. With `config.pipelined` off, one burst at a time.
    """

    memory: list[AxiReadPort]  #: out: reads of panels, one for each weight port
    #: out: beats in order, for each weight port; data and `last` are registers'. A port may be up
    #: to `AHEAD + IN_HANDOUT` instructions ahead of another one
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
        command = self.command.payload
        ring = view_signal(data.ArrayLayout(_ring_layout(), AHEAD))
        put = Signal(range(AHEAD))
        with m.If(begin):
            m.d.sync += [
                ring[put].beats.eq(command.beats),
                ring[put].full.eq(command.full),
                ring[put].rest.eq(command.rest),
                ring[put].nothing.eq(command.rest == 0),
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
                counts.payload.beats.eq(_share(ring[get], port)),
                counts.payload.nothing.eq(ring[get].nothing & ~_is_full(ring[get], port)),
                counts.payload.readings.eq(ring[get].readings),
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
        """Requests: a port's share of each reading of a panel. Returns: one is under way.

        All of them follow each other in memory but those of a panel that is read again. A port has
        room for requests beyond the current one.
        """
        command = self.command.payload
        asking = Signal()
        order = view_signal(_ring_layout(), reset_less=True)
        address = Signal(BEAT_ADDRESS, reset_less=True)
        panel = Signal(BEAT_ADDRESS, name="panel", reset_less=True)  # where it starts
        share = Signal(20, name="share", reset_less=True)
        port = Signal(range(max(2, len(readers))), name="port")
        last = Signal.like(port, name="last", reset_less=True)  # port that has a share
        every = len(readers) - 1
        panels, repeat, again = (
            Signal(bits, name=n) for n, bits in (("panels", 8), ("repeat", 2), ("again", 2))
        )
        following = Signal(BEAT_ADDRESS)  # address behind the share
        accepted = Signal()
        final = Signal()  # the panel's last share
        ready = Cat(reader.request.ready for reader in readers)
        m.d.comb += [
            self.command.ready.eq(~asking & ~full),
            begin.eq(self.command.valid & self.command.ready),
            accepted.eq(asking & ready.bit_select(port, 1)),
            following.eq(address + share),
        ]
        for number, reader in enumerate(readers):
            request = reader.request
            m.d.comb += [
                request.valid.eq(asking & (port == number)),
                request.payload.address.eq(address << 6),
                request.payload.beats.eq(share),
            ]
        m.d.comb += final.eq(port == last if every else 1)
        with m.If(begin):
            m.d.sync += [
                asking.eq(1),
                order.beats.eq(command.beats),
                order.full.eq(command.full),
                order.rest.eq(command.rest),
                last.eq(Mux(command.rest == 0, command.full - 1, every)),
                address.eq(command.address[6:]),
                panel.eq(command.address[6:]),
                share.eq(command.beats),
                panels.eq(command.panels),
                repeat.eq(command.repeat),
                again.eq(command.repeat),
            ]
        with m.Elif(accepted):
            m.d.sync += [port.eq(Mux(final, 0, port + 1)), address.eq(following)]
            with m.If(~final):
                m.d.sync += share.eq(Mux(port + 1 < order.full, order.beats, order.rest))
            with m.Else():
                m.d.sync += [share.eq(order.beats), again.eq(again - 1)]
                with m.If(again == 1):
                    m.d.sync += [
                        again.eq(repeat),
                        panels.eq(panels - 1),
                        panel.eq(following),
                        asking.eq(panels != 1),
                    ]
                with m.Else():
                    m.d.sync += address.eq(panel)
        return asking


def _ring_layout() -> data.StructLayout:
    """Beats of a reading by port, as in the instruction, and readings. nothing: `rest` is 0."""
    return data.StructLayout({**counts_layout().members, "full": 3, "rest": 20})


def _share(order: Any, port: int) -> Value:
    """Beats of a reading on a port."""
    return Mux(_is_full(order, port), order.beats, order.rest)


def _is_full(order: Any, port: int) -> Value:
    """A port is one of the first, which have `beats`; there is at least one."""
    return order.full > port if port else Const(1)
