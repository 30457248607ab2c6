# SPDX-License-Identifier: Apache-2.0
"""Instructions of one unit that wait for their turn."""

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.isa import UNITS, Opcode
from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.links import payload_layout
from lutvar.hw.port_types import Stream, View

WAIT_BITS = 16
WAITS = WAIT_BITS * len(UNITS)


class UnitQueue(wiring.Component):
    """Queue of a unit's instructions; the oldest is offered when its waits are over.

    Latency: 5 cycles from `push` to `command`; one instruction every 4 cycles at most; 2 cycles
    from a count in `completed` to `command.valid`. Cost: LUTRAM of `depth` instructions. The
    unit's ready ends in two flip-flops; the queue's enables follow a cycle later.
    """

    push: Signal  #: in: an instruction arrives; only while `room`
    payload: View  #: in: its operands
    waits: Signal  #: in: its waits
    room: Signal  #: out: the queue has a place
    completed: Signal  #: in: completed instructions of each unit, 16 bits each
    halt: Signal  #: in: offer nothing new. An instruction that is offered already stays
    command: Stream  #: out: to the unit
    empty: Signal  #: out: no instruction is here
    waiting: Signal  #: out: the oldest waits for other units

    def __init__(self, opcode: Opcode, depth: int) -> None:
        self.layout = payload_layout(opcode)
        self.depth = 1 << (depth - 1).bit_length()
        super().__init__(
            {
                "push": In(1),
                "payload": In(self.layout),
                "waits": In(WAITS),
                "room": Out(1),
                "completed": In(WAITS),
                "halt": In(1),
                "command": Out(stream.Signature(self.layout)),
                "empty": Out(1),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        size = self.layout.size
        m.submodules.queue = queue = WideQueue(size + WAITS, self.depth)
        head = queue.o
        over = Signal(len(UNITS))
        looked = Signal()  # `over` is about the instruction that is at the head now
        offered = Signal()
        leave = Signal()
        left = Signal()
        m.d.comb += [
            queue.push.eq(self.push),
            queue.data[:size].eq(Value.cast(self.payload)),
            queue.data[size:].eq(self.waits),
            self.room.eq(queue.room),
            Value.cast(self.command.payload).eq(head.payload[:size]),
            self.command.valid.eq(offered),
            leave.eq(offered & self.command.ready),
            head.ready.eq(left),
        ]
        for unit in UNITS:
            wait = head.payload[size:].word_select(int(unit), WAIT_BITS)
            # Counts wrap; what is awaited is never 2**15 instructions away.
            ahead = Signal(WAIT_BITS, name=f"ahead_{unit.name.lower()}")
            m.d.comb += ahead.eq(self.completed.word_select(int(unit), WAIT_BITS) - wait)
            m.d.sync += over[int(unit)].eq(~ahead[-1])
        m.d.sync += [
            left.eq(leave),
            looked.eq(head.valid & ~leave & ~left),
            offered.eq((offered & ~leave) | (looked & over.all() & ~offered & ~self.halt)),
            self.empty.eq(~head.valid & ~self.push),
            self.waiting.eq(looked & ~over.all() & ~offered),
        ]
        return m
