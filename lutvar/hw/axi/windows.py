# SPDX-License-Identifier: Apache-2.0
"""The windows of memory that the driver has opened, and whether a transfer lies in one."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.links import BEAT_ADDRESS, WINDOWS, transfer_layout, windows_layout

#: Limit minus address minus beats needs two bits more than an address: one for beats beyond the
#: end of the address space, and the sign.
_DIFFERENCE = BEAT_ADDRESS + 2


def ends_within(address: Value, beats: Value, limit: Value) -> Value:
    """Whether `address + beats <= limit`, with nothing lost beyond the top of the address space.

    A carry-save step takes three operands to two, so that this costs one carry chain and not an
    addition before a comparison: limit - address - beats = limit + ~address + ~beats + 2.
    """
    x = Cat(limit, 0, 0)
    y, z = ~Cat(address, 0, 0), ~Cat(beats, *(0 for _ in range(_DIFFERENCE - len(beats))))
    total = x ^ y ^ z
    carry = ((x & y) | (x & z) | (y & z))[: _DIFFERENCE - 1]
    difference = total - ~Cat(1, carry)
    return ~difference[_DIFFERENCE - 1]


class WindowCheck(wiring.Component):
    """Tells whether a transfer lies in one window [base, limit), whole and in order.

    A window whose limit is not above its base is empty; after ap_rst_n all are, so that a device
    whose driver has set nothing touches nothing. `inside` is exactly: a window i exists with
    base_i <= address and address + beats <= limit_i, in integers (no wrap-around).

    Latency: 1 cycle from `transfer` with `load` to `inside`. Two levels and a carry chain before
    its registers, two levels behind them.
    """

    windows: In(windows_layout())  #: from registers; must stay while transfers are offered
    transfer: In(transfer_layout())  #: the low six address bits are ignored
    load: In(1)  #: take the answer for `transfer`
    inside: Out(1)  #: the transfer that was loaded last lies in a window

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        address = self.transfer.address[6:]
        above = Signal(WINDOWS, reset_less=True)
        below = Signal(WINDOWS, reset_less=True)
        with m.If(self.load):
            for number in range(WINDOWS):
                window = self.windows[number]
                m.d.sync += [
                    above[number].eq(address >= window.base),
                    below[number].eq(ends_within(address, self.transfer.beats, window.limit)),
                ]
        m.d.comb += self.inside.eq((above & below).any())
        return m
