# SPDX-License-Identifier: Apache-2.0
"""What the core tells about itself: first error, watchdog, performance counters."""

from amaranth.hdl import Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.registers import ErrorCode

#: Counter register -> engine or stream strobe that it counts.
COUNTED = {
    "BUSY": "issue",
    "STALL_ACT": "stall_act",
    "STALL_WGT": "stall_wgt",
    "STALL_OUT": "stall_out",
    "STALL_GAP": "stall_gap",
    "BEATS_ACT": "beat_act",
    "BEATS_WGT": "beat_wgt",
    "BEATS_OUT": "beat_out",
    "JOBS": "done",
}


class Counters(wiring.Component):
    """Event counters; reset with the core.

    Members:
        for each register of :data:`COUNTED`, in lower case: ``count_<name>``, the strobe, and
        ``<name>``, its 32-bit counter. ``running`` enables the cycle counter.
        cycles_lo_seen: copies the upper half of the cycle counter to ``cycles_hi``.
    """

    def __init__(self):
        super().__init__({
            **{f"count_{name.lower()}": In(1) for name in COUNTED},
            **{name.lower(): Out(32) for name in COUNTED},
            "running": In(1), "cycles_lo": Out(32), "cycles_hi": Out(32), "cycles_lo_seen": In(1),
        })  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        for key in map(str.lower, COUNTED):
            event = Signal(name=f"{key}_event")  # a register: the strobes come from far away
            value = getattr(self, key)
            m.d.sync += [event.eq(getattr(self, f"count_{key}")), value.eq(value + event)]
        upper = Signal(32)
        carry = Signal()
        m.d.comb += carry.eq(self.running & self.cycles_lo.all())
        m.d.sync += [self.cycles_lo.eq(self.cycles_lo + self.running), upper.eq(upper + carry)]
        with m.If(self.cycles_lo_seen):
            m.d.sync += self.cycles_hi.eq(upper)
        return m


class Watchdog(wiring.Component):
    """Fires when nothing has moved for a number of cycles while there is work.

    Members:
        limit: cycles without progress that are allowed; 0 switches the watchdog off.
        active: there is work.
        progress: something moved in this cycle.
        fire: high while the limit is exceeded.
    """

    limit: In(32)
    active: In(1)
    progress: In(1)
    fire: Out(1)

    def elaborate(self, platform):
        m = Module()
        waited = Signal(32)
        moved = Signal(init=1)
        m.d.sync += moved.eq(self.progress | ~self.active | (self.limit == 0))
        m.d.sync += waited.eq(Mux(moved, 0, waited + 1))
        m.d.sync += self.fire.eq(~moved & (waited >= self.limit))
        return m


class ErrorLatch(wiring.Component):
    """Keeps the first error and its context until reset. Of several in one cycle, the lowest code
    wins.

    Members:
        one input pulse for each code of :class:`ErrorCode` (lower case) and ``<name>_info``, its
        context.
        code, info: contents of ERROR and ERROR_INFO; code 0 while there is no error.
        halt: an error is kept.
        raised: high for one cycle when the error is recorded.
    """

    CODES = tuple(code for code in ErrorCode if code is not ErrorCode.NONE)

    def __init__(self):
        super().__init__({
            **{code.name.lower(): In(1) for code in self.CODES},
            **{f"{code.name.lower()}_info": In(32) for code in self.CODES},
            "code": Out(32), "info": Out(32), "halt": Out(1), "raised": Out(1),
        })  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        hit = Signal(len(self.CODES))
        for index, code in enumerate(self.CODES):
            m.d.comb += hit[index].eq(getattr(self, code.name.lower()))
        m.d.sync += self.raised.eq(~self.halt & hit.any())
        with m.If(~self.halt & hit.any()):
            m.d.sync += self.halt.eq(1)
            for index, code in reversed(list(enumerate(self.CODES))):
                with m.If(hit[index]):
                    m.d.sync += [
                        self.code.eq(Const(int(code), 32)),
                        self.info.eq(getattr(self, f"{code.name.lower()}_info")),
                    ]
        return m
