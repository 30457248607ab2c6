# SPDX-License-Identifier: Apache-2.0
"""Keeps the first error of a reader or writer."""

from collections.abc import Mapping
from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value

from lutvar.hw.links import BEAT_ADDRESS


def drive_report(
    m: Module, report: Any, hits: Mapping[str, tuple[Value, Value]], unsolicited: Value
) -> None:
    """Drive a report (`links.report_layout`) from registers.

    Args:
        hits: flag -> whether it happens in this cycle, and the address in beats to keep then. The
            first hit is kept until reset; of several in one cycle the one that is listed first.
        unsolicited: a beat or response is dropped in this cycle.
    """
    flags = {name: Signal(name=f"report_{name}") for name in hits}
    address = Signal(BEAT_ADDRESS, reset_less=True, name="report_address")
    dropped = Signal(name="report_unsolicited")
    m.d.sync += dropped.eq(unsolicited)
    with m.If(~Cat(flags.values()).any()):
        for name, (hit, start) in reversed(list(hits.items())):
            with m.If(hit):
                m.d.sync += [*(f.eq(n == name) for n, f in flags.items()), address.eq(start)]
    m.d.comb += [
        *(report[name].eq(flag) for name, flag in flags.items()),
        report.unsolicited.eq(dropped),
        report.address.eq(address),
    ]
