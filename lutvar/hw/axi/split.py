# SPDX-License-Identifier: Apache-2.0
"""Cut transfers into AXI bursts."""

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import BEAT_ADDRESS, MAX_BURST, transfer_layout, windows_layout
from lutvar.hw.port_types import view_signal

from .windows import WindowCheck

_ALIGNED = MAX_BURST.bit_length() - 1  #: address bits within a block


def _held_layout() -> data.StructLayout:
    """What registers hold of a burst."""
    return data.StructLayout({"address": BEAT_ADDRESS, "beats": _ALIGNED + 1, "last": 1})


def burst_layout() -> data.StructLayout:
    """A burst: address in beats, length in beats (1..16), and whether it ends its transfer.

    inside: its transfer lies in a window (`WindowCheck`); bursts of others must not be issued.
    """
    return data.StructLayout({**_held_layout().members, "inside": 1})


class BurstSplitter(wiring.Component):
    """Transfers in, bursts out: each within an aligned block of 1 KiB, so that none crosses 4 KiB.

    The bursts of a transfer follow each other without overlap or gap, have its `beats` in sum, and
    the last one alone has `last`. The first one starts where the transfer starts; the others start
    at multiples of 16 beats. All have the same `inside`.

    Latency 2 cycles, the check of windows included; one burst in each cycle, also from transfers
    of one burst.
    """

    windows: In(windows_layout())  #: memory that transfers may touch
    #: transfers (`links.transfer_layout`); the low six address bits are ignored, `beats` is at
    #: least 1. `ready` is a flip-flop
    i: In(stream.Signature(transfer_layout()))
    #: bursts in order of addresses; the payload comes from registers, `inside` two levels behind
    o: Out(stream.Signature(burst_layout()))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        # Two places for transfers, so that ready is a register.
        has_first = Signal()
        has_second = Signal()
        first = Signal.like(self.i.payload, reset_less=True)
        second = Signal.like(self.i.payload, reset_less=True)
        accept = Signal()
        load = Signal()
        upcoming = Signal.like(self.i.payload)
        room = Signal(_ALIGNED + 1, reset_less=True)  # beats up to the end of the block
        large = Signal(reset_less=True)  # more beats than any block has
        m.d.comb += [
            self.i.ready.eq(~has_second),
            accept.eq(self.i.valid & ~has_second),
            upcoming.eq(Mux(has_second, second, self.i.payload)),
        ]
        with m.If(load | ~has_first):
            m.d.sync += [
                has_first.eq(has_second | accept),
                has_second.eq(0),
                first.eq(upcoming),
                room.eq(MAX_BURST - upcoming.address[6 : 6 + _ALIGNED]),
                large.eq(upcoming.beats[_ALIGNED + 1 :].any()),
            ]
        with m.Elif(accept):
            m.d.sync += has_second.eq(1)
        with m.If(accept):
            m.d.sync += second.eq(self.i.payload)

        burst = view_signal(_held_layout(), reset_less=True)  # `o.valid` says when it counts
        left = Signal(len(first.beats), reset_less=True)  # beats after the current burst, if any
        more = Signal()  # there are some
        # The first burst ends at its block's end.
        size = Signal(_ALIGNED + 1)
        few = first.beats[: _ALIGNED + 1]
        start = first.address[6:]
        more_than_one = Signal()
        m.d.comb += [
            size.eq(Mux(large | (few >= room), room, few)),
            more_than_one.eq(large | (few > room)),
        ]
        # Every later burst starts a block.
        full = Signal()
        after = Signal(len(left) - _ALIGNED)
        m.d.comb += [full.eq(left[_ALIGNED:].any()), after.eq(left[_ALIGNED:] - 1)]
        step = Signal()
        m.d.comb += [
            step.eq(~self.o.valid | self.o.ready),
            more.eq(~burst.last),
            load.eq(has_first & step & ~(self.o.valid & more)),
        ]
        m.submodules.check = check = WindowCheck()
        m.d.comb += [
            check.windows.eq(self.windows),
            check.transfer.eq(first),
            check.load.eq(load),
            self.o.payload.inside.eq(check.inside),
            *(self.o.payload[name].eq(burst[name]) for name in _held_layout().members),
        ]
        with m.If(step):
            with m.If(self.o.valid & more):
                m.d.sync += [
                    burst.address.eq(Cat(Const(0, _ALIGNED), (burst.address[_ALIGNED:] + 1)[:-1])),
                    burst.beats.eq(Mux(full, MAX_BURST, left[:_ALIGNED])),
                    left.eq(Cat(left[:_ALIGNED], after)),
                    burst.last.eq(
                        (left[_ALIGNED + 1 :] == 0) & (left[: _ALIGNED + 1] <= MAX_BURST)
                    ),
                ]
            with m.Else():
                m.d.sync += [
                    self.o.valid.eq(has_first),
                    burst.address.eq(start),
                    burst.beats.eq(size),
                    # From registers: what is taken when the transfer ends here is not used.
                    left.eq(first.beats - room),
                    burst.last.eq(~more_than_one),
                ]
        return m


def enough(m: Module, source: Any, amount: Signal, issue: Signal) -> Signal:
    """Whether the burst that `source` offers may take its beats from `amount`, in a register.

    Issues take from `amount`, everything else adds. With room for two of the largest bursts one
    can be issued in each cycle; with less, one in two, for the comparison takes a cycle.
    """
    plenty = Signal()
    fits = Signal()
    m.d.sync += [
        plenty.eq(amount[_ALIGNED + 1 :].any()),
        fits.eq(source.valid & (amount >= source.payload.beats) & ~issue),
    ]
    result = Signal()
    m.d.comb += result.eq(plenty | fits)
    return result
