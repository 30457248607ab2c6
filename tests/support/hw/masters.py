# SPDX-License-Identifier: Apache-2.0
"""Windows and reports of units, readers and writers."""

from collections.abc import Iterable
from typing import Any

from lutvar.hw.links import windows_layout

#: One window, all of memory but its last beat; the other three are empty.
WHOLE = windows_layout().const([{"base": 0, "limit": (1 << 58) - 1}, {}, {}, {}]).as_bits()


def open_windows(ctx: Any, *components: Any) -> None:
    """Let every transfer pass."""
    for component in components:
        ctx.set(component.windows.as_value(), WHOLE)


def first_report(ctx: Any, reports: Iterable[Any]) -> tuple[str, int]:
    """(response, last or outside, byte address) of the first report that has one, or ("", 0)."""
    for report in reports:
        for kind in ("response", "last", "outside"):
            if ctx.get(report[kind]):
                return kind, ctx.get(report.address) << 6
    return "", 0
