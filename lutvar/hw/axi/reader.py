# SPDX-License-Identifier: Apache-2.0
"""AXI4 read master: transfers in, beats out, in order."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import ADDRESS, BEAT, BEAT_ADDRESS, axi_read, transfer_layout

from .queue import WideQueue
from .split import BurstSplitter, enough

OUTSTANDING = 64  #: bursts under way at most


class BurstReader(wiring.Component):
    """Reads contiguous beats from memory as INCR bursts of at most 16 beats.

    A burst is requested only when the queue has a place for each of its beats, so `rready` is
    always 1 and what is under way never depends on whether `data` is taken.

    Args:
        depth: beats under way and waiting, a power of two from 32. Full rate needs a depth of the
            memory's latency plus about 24 cycles.
        serial: one burst at a time, the next when the last one was taken (for comparisons).

    Latency: 3 cycles from `request` to `arvalid`, 4 from `rvalid` to `data.valid`.
    Throughput: one beat in each cycle; a burst in each cycle while 32 beats are free, else in every
    second. AR is from registers.
    """

    #: 64-byte aligned address and number of beats (at least 1). Taken ahead of the data, two beyond
    #: the one that is being requested
    request: In(stream.Signature(transfer_layout()))
    #: beats in order of requests; nothing marks where a request ends
    data: Out(stream.Signature(unsigned(BEAT)))
    memory: Out(axi_read())  #: AR and R channels
    stop: In(1)  #: request nothing new; bursts under way end in the queue
    #: no burst is under way and none is offered; true within 2 cycles of the last beat
    idle: Out(1)
    #: sticky: a beat had a response other than OKAY (its data is delivered all the same)
    error: Out(1)
    error_address: Out(ADDRESS)  #: start of the first such burst

    def __init__(self, depth: int, *, serial: bool = False) -> None:
        if depth < 32 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; it must be a power of two, 32 or more")
        self.depth, self.serial = depth, serial
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        axi = self.memory
        m.submodules.split = split = BurstSplitter()
        m.submodules.queue = queue = WideQueue(BEAT, self.depth)
        wiring.connect(m, wiring.flipped(self.request), split.i)
        wiring.connect(m, queue.o, wiring.flipped(self.data))

        free = Signal(range(self.depth + 1), init=self.depth)  # places not promised to a burst
        bursts = Signal(range(OUTSTANDING + 1))
        burst, issue, ended = split.o.payload, Signal(), Signal()
        m.d.comb += [
            issue.eq(
                split.o.valid & (~axi.arvalid | axi.arready) & enough(m, split.o, free, issue)
                & ~bursts[-1] & ~self.stop
            ),
            split.o.ready.eq(issue),
            axi.rready.eq(1),
            ended.eq(axi.rvalid & axi.rlast),
        ]  # fmt: skip
        if self.serial:
            with m.If(free != self.depth):
                m.d.comb += issue.eq(0)
        with m.If(issue):
            m.d.sync += [
                axi.araddr.eq(Cat(Const(0, 6), burst.address)),
                axi.arlen.eq(burst.beats - 1),
            ]
        with m.If(~axi.arvalid | axi.arready):
            m.d.sync += axi.arvalid.eq(issue)
        freed = Signal()
        m.d.sync += [
            freed.eq(queue.taken),
            free.eq(free + freed - Mux(issue, burst.beats, 0)),
            bursts.eq(bursts + issue - ended),
            self.idle.eq((bursts == 0) & ~issue),
        ]
        # One register between the port and the RAM.
        m.d.sync += [queue.push.eq(axi.rvalid), queue.data.eq(axi.rdata)]

        # Which burst a response belongs to, for the error's sake.
        m.submodules.addresses = addresses = memory.Memory(
            shape=unsigned(BEAT_ADDRESS), depth=OUTSTANDING, init=[]
        )
        write, read = addresses.write_port(), addresses.read_port(domain="comb")
        m.d.comb += [write.en.eq(issue), write.data.eq(burst.address)]
        m.d.sync += [write.addr.eq(write.addr + issue), read.addr.eq(read.addr + ended)]
        with m.If(axi.rvalid & (axi.rresp != 0) & ~self.error):
            m.d.sync += [self.error.eq(1), self.error_address.eq(Cat(Const(0, 6), read.data))]
        return m
