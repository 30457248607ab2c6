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
from lutvar.hw.links import BEAT_ADDRESS, UnitComponent, axi_read, unit_members, weight_stream
from lutvar.hw.port_types import AxiReadPort, Stream, view_signal
from lutvar.hw.units.count import Level

READINGS = 9  #: bits of the readings of an instruction's panels: `panels * repeat`
AHEAD = 8  #: instructions whose beats may be requested but not yet handed out
SKEW = 8  #: beats that one weight port may hand out before the other one has


class FetchUnit(UnitComponent):
    """Reads panels and hands their beats to the array, `config.weight_fifo` beats ahead.

    With two weight ports (`config.weight_ports`) each reads one half of every panel, at the same
    address plus half the panel's beats, which are an even number then. An instruction is done when
    its last beat has left the FIFO (or the last of both FIFOs). Requests of the next instructions
    follow those of the current one without a gap.

    Latency: 6 cycles from `command` to `arvalid`. Throughput: one beat in each cycle and port,
    also across panels and instructions; an instruction is begun every 2 cycles at most. With
    `config.pipelined` off, one burst at a time.
    """

    memory: list[AxiReadPort]  #: out: reads of panels, one for each weight port
    #: out: beats in order, for each weight port; the payload is a register's. No port hands out
    #: more than `SKEW` beats before the other one has as many
    weights: list[Stream]

    def __init__(self, config: AcceleratorConfig) -> None:
        self._config = config
        super().__init__(
            {
                **unit_members(Opcode.FETCH),
                "memory": Out(axi_read()).array(config.weight_ports),
                "weights": Out(weight_stream()).array(config.weight_ports),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        depth, serial = self._config.weight_fifo, not self._config.pipelined
        readers = [BurstReader(depth, serial=serial) for _ in range(self._config.weight_ports)]
        for port, reader in enumerate(readers):
            m.submodules[f"reader_{port}"] = reader
            wiring.connect(m, reader.memory, wiring.flipped(self.memory[port]))
            m.d.comb += reader.stop.eq(self.stop)
        m.d.comb += self.idle.eq(Cat(reader.idle for reader in readers).all())
        self._errors(m, readers)
        # Instructions between the requests and the beats: one register each and a small ring.
        counts = data.StructLayout({"beats": 20, "readings": READINGS})
        ring = view_signal(data.ArrayLayout(counts, AHEAD))
        put, get = Signal(range(AHEAD)), Signal(range(AHEAD))
        level = Signal(range(AHEAD + 1))
        begin, load = Signal(), Signal()
        asking = self._ask(m, readers, begin, level)
        command = self.command.payload
        with m.If(begin):
            m.d.sync += [
                ring[put].beats.eq(command.beats),
                ring[put].readings.eq(Mux(command.repeat[1], command.panels << 1, command.panels)),
            ]
        m.d.sync += [put.eq(put + begin), get.eq(get + load), level.eq(level + begin - load)]

        head = view_signal(counts, reset_less=True)
        head_valid, refill = Signal(), Signal()
        giving = self._give(m, readers, head, head_valid, refill)
        # Not in the cycle of a refill, which comes from the array's ready: the path would be long.
        m.d.comb += load.eq((level != 0) & ~head_valid)
        with m.If(load):
            m.d.sync += head.eq(ring[get])
        m.d.sync += head_valid.eq(load | (head_valid & ~refill))
        m.d.sync += [
            self.busy.eq(begin | asking | (level != 0) | head_valid | giving),
            self.active.eq(
                Cat(reader.memory.rvalid for reader in readers).any()
                | Cat(w.valid & w.ready for w in self.weights).any()
            ),
        ]
        return m

    def _errors(self, m: Module, readers: Sequence[BurstReader]) -> None:
        """The first error of all ports; of two in one cycle that of the first port."""
        errors = Cat(reader.error for reader in readers)
        m.d.comb += self.error.eq(errors.any())
        if len(readers) == 1:
            m.d.comb += self.error_address.eq(readers[0].error_address)
            return
        has_error, second = Signal(), Signal()  # the second port was first
        with m.If(~has_error):
            m.d.sync += [has_error.eq(self.error), second.eq(~errors[0])]
        m.d.comb += self.error_address.eq(
            Mux(second, readers[1].error_address, readers[0].error_address)
        )

    def _ask(
        self, m: Module, readers: Sequence[BurstReader], begin: Signal, level: Signal
    ) -> Signal:
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
            self.command.ready.eq(~asking & ~level[-1]),
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

    def _give(
        self, m: Module, readers: Sequence[BurstReader], head: Any, head_valid: Signal,
        refill: Signal,
    ) -> Signal:  # fmt: skip
        """Hands beats out and counts them. Returns: beats of an instruction are awaited.

        One of two ports gives half of an instruction's beats; so what is counted then is pairs,
        a beat from each.
        """
        giving = Signal()
        beats, left = Signal(20, reset_less=True), Signal(20, reset_less=True)
        last, one = Signal(), Signal()  # last beat of a reading; panels of a single beat
        readings = Signal(READINGS, reset_less=True)  # that are not handed out completely
        ending = Signal()  # only one of them is left
        each = head.beats >> (len(readers) - 1)
        handshake, final = Signal(), Signal()
        m.d.comb += [
            handshake.eq(self._hand_out(m, readers, giving)),
            final.eq(handshake & last & ending),
            refill.eq(head_valid & (~giving | final)),
        ]
        m.d.sync += self.done.eq(final)
        with m.If(refill):
            m.d.sync += [
                giving.eq(1),
                beats.eq(each),
                left.eq(each),
                one.eq(each == 1),
                last.eq(each == 1),
                readings.eq(head.readings),
                ending.eq(head.readings == 1),
            ]
        with m.Elif(handshake):
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

    def _hand_out(self, m: Module, readers: Sequence[BurstReader], giving: Signal) -> Value:
        """Connects the FIFOs to `weights`. Returns: a beat is handed out, or a pair has been."""
        if len(readers) == 1:
            data, weights = readers[0].data, self.weights[0]
            m.d.comb += [
                weights.valid.eq(data.valid & giving),
                weights.payload.eq(data.payload),
                data.ready.eq(weights.ready & giving),
            ]
            return weights.valid & weights.ready
        pair = Signal()
        some: list[Value] = []  # beats handed out and not counted
        for port, (reader, weights) in enumerate(zip(readers, self.weights, strict=True)):
            data = reader.data
            uncounted = Level(m, f"uncounted_{port}", SKEW, weights.valid & weights.ready, pair)
            m.d.comb += [
                weights.valid.eq(data.valid & uncounted.room),
                weights.payload.eq(data.payload),
                data.ready.eq(weights.ready & uncounted.room),
            ]
            some.append(uncounted.some)
        m.d.comb += pair.eq(giving & Cat(some).all())
        return pair
