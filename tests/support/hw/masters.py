# SPDX-License-Identifier: Apache-2.0
"""Windows and reports of units, readers and writers."""

from collections.abc import Iterable, Sequence
from typing import Any

from lutvar.hw.links import WINDOWS, windows_layout


def window_bits(windows: Sequence[tuple[int, int]]) -> int:
    """The value of a `windows` port from (base, limit) in beats; the rest are empty."""
    layout: Any = windows_layout()  # its stubs take constants for those of the language
    fields: list[dict[str, int]] = [{"base": base, "limit": limit} for base, limit in windows]
    return int(layout.const(fields + [{}] * (WINDOWS - len(fields))).as_bits())


#: One window, all of memory but its last beat.
WHOLE = window_bits([(0, (1 << 58) - 1)])


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
