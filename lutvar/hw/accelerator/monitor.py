# SPDX-License-Identifier: Apache-2.0
"""What the accelerator tells about itself: event counters, watchdog, first error."""

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.register_map import DeviceError
from lutvar.hw.port_types import View


class EventCounters(wiring.Component):
    """Counters of 32 bits that wrap, and a cycle counter of 64."""

    #: in: one bit for each counter; counted one cycle later, for they come from far away
    events: Signal
    counts: View  #: out: 32 bits each, in the order of `events`
    running: Signal  #: in: enables the cycle counter
    cycles_lo: Signal  #: out: lower half of the cycle counter
    cycles_hi: Signal  #: out: upper half, as it was at the last `cycles_lo_seen`
    cycles_lo_seen: Signal  #: in: the lower half is read in this cycle

    def __init__(self, counters: int) -> None:
        self._counters = counters
        super().__init__({
            "events": In(counters), "counts": Out(data.ArrayLayout(32, counters)),
            "running": In(1), "cycles_lo": Out(32), "cycles_hi": Out(32), "cycles_lo_seen": In(1),
        })  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        events = Signal(self._counters)
        m.d.sync += events.eq(self.events)
        for number in range(self._counters):
            m.d.sync += self.counts[number].eq(self.counts[number] + events[number])
        upper = Signal(32)
        carry = Signal()
        m.d.comb += carry.eq(self.running & self.cycles_lo.all())
        m.d.sync += [self.cycles_lo.eq(self.cycles_lo + self.running), upper.eq(upper + carry)]
        with m.If(self.cycles_lo_seen):
            m.d.sync += self.cycles_hi.eq(upper)
        return m


class Watchdog(wiring.Component):
    """Fires when nothing has moved for `limit` cycles while there is work."""

    limit: In(32)  #: cycles; 0 switches the watchdog off
    active: In(1)  #: there is work
    progress: In(1)  #: something moved
    fire: Out(1)  #: one cycle or more while the limit is exceeded

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        waited = Signal(32)
        moved = Signal(init=1)
        m.d.sync += [
            moved.eq(self.progress | ~self.active | (self.limit == 0)),
            waited.eq(Mux(moved, 0, waited + 1)),
            self.fire.eq(~moved & (waited >= self.limit)),
        ]
        return m


class FirstError(wiring.Component):
    """Keeps the first error and its context until reset; of several at once the first listed."""

    hits: Signal  #: in: one bit for each of `codes`
    infos: View  #: in: 32 bits of context for each of `codes`
    code: Signal  #: out: ERROR
    info: Signal  #: out: ERROR_INFO
    halt: Signal  #: out: an error is recorded
    raised: Signal  #: out: one cycle, when it is recorded

    def __init__(self, codes: Sequence[DeviceError]) -> None:
        self._codes = tuple(codes)
        super().__init__({
            "hits": In(len(self._codes)), "infos": In(data.ArrayLayout(32, len(self._codes))),
            "code": Out(8), "info": Out(32), "halt": Out(1), "raised": Out(1),
        })  # fmt: skip

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # A register first: the hits come from all over the chip.
        hits = Signal(len(self._codes))
        infos = Signal.like(self.infos, reset_less=True)
        m.d.sync += [hits.eq(self.hits), infos.eq(self.infos)]
        m.d.sync += self.raised.eq(~self.halt & hits.any())
        with m.If(~self.halt & hits.any()):
            m.d.sync += self.halt.eq(1)
            for number, code in reversed(list(enumerate(self._codes))):
                with m.If(hits[number]):
                    m.d.sync += [self.code.eq(int(code)), self.info.eq(infos[number])]
        return m
