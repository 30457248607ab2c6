# SPDX-License-Identifier: Apache-2.0
"""AXI4 read master: transfers in, beats out, in order."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import (
    BEAT,
    BEAT_ADDRESS,
    axi_read,
    report_layout,
    transfer_layout,
    windows_layout,
)
from lutvar.hw.units.ram_style import ram_attributes

from .queue import WideQueue
from .report import drive_report
from .split import BurstSplitter, enough

OUTSTANDING = 64  #: bursts under way at most


class BurstReader(wiring.Component):
    """Reads contiguous beats from memory as INCR bursts of at most 16 beats.

    A burst is requested only when the queue has a place for each of its beats, so `rready` is
    always 1 and what is under way never depends on whether `data` is taken.

    A transfer that lies in no window is not begun: nothing of it or after it is requested until
    the reset. Beats that no burst has asked for are dropped, and change nothing but the report.
    After a wrong RLAST all beats are dropped; bursts then end where the memory says so.

    Invariants: `free` + beats of bursts under way + words in the queue's RAM = `depth` (one more
    cycle for a word that left), so the queue never overflows; `bursts` counts AR handshakes plus a
    waiting `arvalid` minus last beats, and never falls below 0 or rises above `outstanding`.

    Args:
        depth: beats under way and waiting, a power of two from 32. Full rate needs a depth of the
            memory's latency plus about 24 cycles.
        serial: one burst at a time, the next when the last one was taken (for comparisons).
        outstanding: bursts under way at most, a power of two (proofs take fewer).

    Latency: 3 cycles from `request` to `arvalid`, 4 from `rvalid` to `data.valid`.
    Throughput: one beat in each cycle; a burst in each cycle while 32 beats are free, else in every
    second. AR is from registers.
    """

    windows: In(windows_layout())  #: memory that may be read
    #: 64-byte aligned address and number of beats (at least 1). Taken ahead of the data, two beyond
    #: the one that is being requested
    request: In(stream.Signature(transfer_layout()))
    #: beats in order of requests; nothing marks where a request ends
    data: Out(stream.Signature(unsigned(BEAT)))
    memory: Out(axi_read())  #: AR and R channels
    stop: In(1)  #: request nothing new; bursts under way end in the queue
    #: no burst is under way and none is offered; true within 2 cycles of the last beat
    idle: Out(1)
    #: first error; the data of a beat with a bad response is delivered all the same
    report: Out(report_layout())

    def __init__(self, depth: int, *, serial: bool = False, outstanding: int = OUTSTANDING) -> None:
        if depth < 32 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; it must be a power of two, 32 or more")
        self.depth, self.serial, self.outstanding = depth, serial, outstanding
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi = self.memory
        m.submodules.split = split = BurstSplitter()
        wiring.connect(m, wiring.flipped(self.request), split.i)
        m.submodules.queue = queue = WideQueue(BEAT, self.depth)
        wiring.connect(m, queue.o, wiring.flipped(self.data))

        free = Signal(range(self.depth + 1), init=self.depth)  # places not promised to a burst
        bursts = Signal(range(self.outstanding + 1))
        several = Signal()  # more than one of them
        burst = split.o.payload
        issue = Signal()
        granted = Signal()
        refused = Signal()  # a transfer: sticky, for nothing behind it may overtake the error
        ended = Signal()
        m.d.comb += [
            split.windows.eq(self.windows),
            issue.eq(
                split.o.valid & (~axi.arvalid | axi.arready) & enough(m, split.o, free, issue)
                & ~bursts[-1] & ~self.stop & ~refused
            ),
            split.o.ready.eq(issue),
            # The check joins late: it is two levels deep itself.
            granted.eq(issue & burst.inside),
            axi.rready.eq(1),
        ]  # fmt: skip
        if self.serial:
            with m.If(free != self.depth):
                m.d.comb += issue.eq(0)
        # Payload has no reset: `arvalid` says when it counts.
        address = Signal(BEAT_ADDRESS, reset_less=True)
        length = Signal(4, reset_less=True)
        m.d.comb += [axi.araddr.eq(Cat(Const(0, 6), address)), axi.arlen.eq(length)]
        with m.If(issue):
            m.d.sync += [address.eq(burst.address), length.eq(burst.beats - 1)]
        with m.If(~axi.arvalid | axi.arready):
            m.d.sync += axi.arvalid.eq(granted)
        with m.If(split.o.valid & ~burst.inside):
            m.d.sync += refused.eq(1)
        freed = Signal()
        m.d.sync += [
            freed.eq(queue.taken),
            free.eq(free + freed - Mux(granted, burst.beats, 0)),
            bursts.eq(bursts + granted - ended),
            # Known a cycle before: whether a beat has an owner starts the longest way here.
            several.eq(Mux(granted == ended, several, Mux(granted, bursts.any(), bursts > 2))),
            self.idle.eq((bursts == 0) & ~granted),
        ]
        # A burst whose address is still offered cannot have beats.
        unended = several | (bursts[0] & (~axi.arvalid | axi.arready))
        self._receive(m, queue, split.o, unended, granted, ended)
        return m

    def _receive(
        self, m: Module, queue: WideQueue, offered: Any, unended: Value, granted: Signal,
        ended: Signal,
    ) -> None:  # fmt: skip
        """R channel: beats of the bursts that were accepted, and whether they are as they should.

        Args:
            offered: bursts from the splitter; granted: one of them is requested.
            unended: a beat may come.
            ended: driven here: the last beat of a burst.
        """
        axi, burst = self.memory, offered.payload
        # Where each burst starts, for the error's sake, and how long it is.
        entry = data.StructLayout({"address": BEAT_ADDRESS, "length": 4})
        m.submodules.started = started = memory.Memory(
            shape=entry,
            depth=self.outstanding,
            init=[],
            attrs=ram_attributes(self.outstanding),
        )
        write, read = started.write_port(), started.read_port(domain="comb")
        owned = Signal()
        wrong = Signal()
        lost = Signal()
        position = Signal(4)  # of the beat in its burst
        m.d.comb += [
            write.en.eq(granted),
            write.data.address.eq(burst.address),
            write.data.length.eq(burst.beats - 1),
            owned.eq(axi.rvalid & unended),
            ended.eq(owned & axi.rlast),
            wrong.eq(owned & ~lost & (axi.rlast != (position == read.data.length))),
        ]  # fmt: skip
        m.d.sync += [write.addr.eq(write.addr + granted), read.addr.eq(read.addr + ended)]
        with m.If(owned):
            m.d.sync += position.eq(Mux(axi.rlast, 0, position + 1))
        with m.If(wrong):
            m.d.sync += lost.eq(1)
        # One register between the port and the RAM.
        beat = Signal(BEAT, reset_less=True)
        m.d.sync += [queue.push.eq(owned & ~lost), beat.eq(axi.rdata)]
        m.d.comb += queue.data.eq(beat)

        # What is wrong with a beat is told a cycle later; the ways up to here are long enough.
        failed = Signal()
        start = Signal(BEAT_ADDRESS, reset_less=True)
        m.d.sync += [failed.eq(owned & (axi.rresp != 0)), start.eq(read.data.address)]
        drive_report(
            m,
            self.report,
            {
                "response": (failed, start),
                "last": (lost, start),
                "outside": (offered.valid & ~burst.inside, burst.address),
            },
            axi.rvalid & ~owned,
        )
