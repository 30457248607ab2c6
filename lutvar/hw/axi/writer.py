# SPDX-License-Identifier: Apache-2.0
"""AXI4 write master: transfers and beats in, responses counted."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import (
    BEAT,
    BEAT_ADDRESS,
    MAX_BURST,
    axi_write,
    report_layout,
    transfer_layout,
    windows_layout,
)
from lutvar.hw.units.ram_style import ram_attributes

from .queue import WideQueue
from .report import drive_report
from .split import BurstSplitter, enough

OUTSTANDING = 64  #: bursts without response at most
PENDING = 16  #: bits of `pending_requests`


class BurstWriter(wiring.Component):
    """Writes contiguous whole beats to memory as INCR bursts of at most 16 beats.

    A burst starts when all its beats are here: a write never holds up the memory while the unit
    computes, and a burst that was started can always be finished.

    A transfer that lies in no window is not begun: nothing of it or after it is written until the
    reset. Responses that no burst waits for are dropped, and change nothing but the report.

    Invariants: `free` + words in the queue's RAM = `depth` (one more cycle for a word that left);
    `here` counts beats in the queue that no burst owns; `bursts` counts AW handshakes plus a
    waiting `awvalid` minus responses, `sent` those of them whose WLAST was taken.

    Args:
        depth: beats waiting, a power of two from 32.
        outstanding: bursts without response at most, a power of two (proofs take fewer).

    Latency: 4 cycles from a burst's last beat to `awvalid`, 3 to `wvalid` of its first beat
    after that; 1 from `bvalid` to `responses`. Throughput: one beat in each cycle; a burst in
    each cycle while 32 beats wait, else in every second.
    """

    windows: In(windows_layout())  #: memory that may be written
    #: 64-byte aligned address and number of beats (at least 1)
    request: In(stream.Signature(transfer_layout()))
    #: beats in order of requests. Requests and beats may come in either order; of each, some are
    #: taken ahead of the other
    data: In(stream.Signature(unsigned(BEAT)))
    memory: Out(axi_write())  #: AW, W and B channels. AW and W do not wait for each other
    accepted: Out(1)  #: one cycle for each request that is taken (`request.valid & request.ready`)
    responses: Out(1)  #: one cycle for each request, in order, when all its bursts have responses
    pending_requests: Out(PENDING)  #: requests accepted without `responses` so far
    #: start nothing new; started bursts end. What waits stays until the reset that follows
    stop: In(1)
    idle: Out(1)  #: no burst is without response
    report: Out(report_layout())  #: first error; a response that is not OKAY counts all the same

    def __init__(self, depth: int, *, outstanding: int = OUTSTANDING) -> None:
        if depth < 2 * MAX_BURST or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; it must be a power of two, 32 or more")
        self.depth, self.outstanding = depth, outstanding
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi = self.memory
        m.submodules.split = split = BurstSplitter()
        wiring.connect(m, wiring.flipped(self.request), split.i)
        burst = split.o.payload
        issue = Signal()
        granted = Signal()
        refused = Signal()  # a transfer: sticky, for nothing behind it may overtake the error

        # Beats: `free` places of the queue, `here` beats not yet promised to a burst.
        m.submodules.queue = queue = WideQueue(BEAT, self.depth)
        free = Signal(range(self.depth + 1), init=self.depth)
        here = Signal(range(self.depth + 3))
        take = Signal()
        freed = Signal()
        beat = Signal(BEAT, reset_less=True)
        m.d.comb += [
            self.data.ready.eq(free != 0),
            take.eq(self.data.valid & self.data.ready),
            queue.data.eq(beat),
        ]
        m.d.sync += [
            queue.push.eq(take),
            beat.eq(self.data.payload),
            freed.eq(queue.taken),
            free.eq(free + freed - take),
            here.eq(here + take - Mux(granted, burst.beats, 0)),
        ]

        bursts = Signal(range(self.outstanding + 1))
        m.d.comb += [
            split.windows.eq(self.windows),
            issue.eq(
                split.o.valid & (~axi.awvalid | axi.awready) & enough(m, split.o, here, issue)
                & ~bursts[-1] & ~self.stop & ~refused
            ),
            split.o.ready.eq(issue),
            # The check joins late: it is two levels deep itself.
            granted.eq(issue & burst.inside),
        ]  # fmt: skip
        # Payload has no reset: `awvalid` says when it counts.
        address = Signal(BEAT_ADDRESS, reset_less=True)
        length = Signal(4, reset_less=True)
        m.d.comb += [axi.awaddr.eq(Cat(Const(0, 6), address)), axi.awlen.eq(length)]
        with m.If(issue):
            m.d.sync += [address.eq(burst.address), length.eq(burst.beats - 1)]
        with m.If(~axi.awvalid | axi.awready):
            m.d.sync += axi.awvalid.eq(granted)
        with m.If(split.o.valid & ~burst.inside):
            m.d.sync += refused.eq(1)
        finished = self._send(m, queue, burst.beats, granted)
        self._respond(m, split.o, granted, bursts, finished)
        return m

    def _send(self, m: Module, queue: WideQueue, beats: Any, issue: Signal) -> Value:
        """W channel: the beats of the bursts that were issued. Returns: a burst's last one goes."""
        axi = self.memory
        m.submodules.lengths = lengths = memory.Memory(
            shape=unsigned(len(beats)),
            depth=self.outstanding,
            init=[],
            attrs=ram_attributes(self.outstanding),
        )
        write, read = lengths.write_port(), lengths.read_port(domain="comb")
        waiting = Signal(range(self.outstanding + 1))
        left = Signal(len(beats))  # of the current burst
        active = Signal()
        moves = Signal()
        load = Signal()
        m.d.comb += [
            write.en.eq(issue),
            write.data.eq(beats),
            axi.wvalid.eq(active & queue.o.valid),
            axi.wdata.eq(queue.o.payload),
            axi.wstrb.eq(~0),
            moves.eq(axi.wvalid & axi.wready),
            queue.o.ready.eq(active & axi.wready),
            load.eq((waiting != 0) & (~active | (moves & axi.wlast))),
        ]
        m.d.sync += [
            write.addr.eq(write.addr + issue),
            read.addr.eq(read.addr + load),
            waiting.eq(waiting + issue - load),
        ]
        with m.If(load):
            m.d.sync += [left.eq(read.data), axi.wlast.eq(read.data == 1), active.eq(1)]
        with m.Elif(moves):
            m.d.sync += [left.eq(left - 1), axi.wlast.eq(left == 2), active.eq(~axi.wlast)]
        return moves & axi.wlast

    def _respond(
        self, m: Module, offered: Any, issue: Signal, bursts: Signal, finished: Value
    ) -> None:
        """B channel: which burst a response belongs to, and when a request is complete."""
        axi, burst = self.memory, offered.payload
        sent = Signal(range(self.outstanding + 1))  # bursts with all beats taken, without response
        owned = Signal()
        entry = data.StructLayout({"address": BEAT_ADDRESS, "last": 1})
        m.submodules.started = started = memory.Memory(
            shape=entry,
            depth=self.outstanding,
            init=[],
            attrs=ram_attributes(self.outstanding),
        )
        write, read = started.write_port(), started.read_port(domain="comb")
        m.d.comb += [
            write.en.eq(issue),
            write.data.address.eq(burst.address),
            write.data.last.eq(burst.last),
            axi.bready.eq(1),
            self.accepted.eq(self.request.valid & self.request.ready),
        ]
        m.d.comb += owned.eq(
            axi.bvalid & ((sent != 0) | finished) & (bursts[1:].any() | ~axi.awvalid | axi.awready)
        )
        m.d.sync += [
            write.addr.eq(write.addr + issue),
            read.addr.eq(read.addr + owned),
            sent.eq(sent + finished - owned),
            bursts.eq(bursts + issue - owned),
            self.idle.eq((bursts == 0) & ~issue),
            self.responses.eq(owned & read.data.last),
            self.pending_requests.eq(self.pending_requests + self.accepted - self.responses),
        ]
        drive_report(
            m,
            self.report,
            {
                "response": (owned & (axi.bresp != 0), read.data.address),
                "outside": (offered.valid & ~burst.inside, burst.address),
            },
            axi.bvalid & ~owned,
        )
