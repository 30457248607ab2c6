# SPDX-License-Identifier: Apache-2.0
"""One recipe over the array's cycles: rows of the record, and the picture beside the page."""

from __future__ import annotations

from pathlib import Path

from lutvar.files import rendered, write_file

from .record import Row
from .results import Comparison

_PANELS = (
    ("forced.kl_nats", "KL, nat"),
    ("paired.frechet", "Fréchet to float"),
    ("samples.frechet", "Fréchet to real images"),
)
_LINE, _BEST = "#1f6f8b", "#c8553d"


def passes_rows(comparison: Comparison) -> list[tuple[str, Row | None]]:
    """The recipe itself and with each budget, in ascending order of cycles; rows that are not
    measured last."""
    passes = comparison.plan.passes
    if passes is None:
        return []
    rows = [
        (name, comparison.states(comparison.plan.main, name)[0].row)
        for name in (passes.recipe, *passes.names())
    ]
    return sorted(rows, key=lambda item: _cycles(item[1]))


def _cycles(row: Row | None) -> float:
    known = None if row is None else row.hardware
    return float("inf") if known is None or known.more_cycles is None else known.more_cycles


def draw_passes(comparison: Comparison, path: Path) -> bool:
    """A PNG with a panel for each figure, with intervals; False, and no file, below two rows."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [
        (name, row) for name, row in passes_rows(comparison)
        if row is not None and _cycles(row) < float("inf")
    ]  # fmt: skip
    if len(rows) < 2:
        return False
    assert comparison.plan.passes is not None
    figure = Figure(figsize=(11.4, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (name, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        found = [(_cycles(row), row.figure(name), recipe) for recipe, row in rows]
        points = [(x, value, recipe) for x, value, recipe in found if value is not None]
        axis.errorbar(
            [x for x, _, _ in points], [v.mean for _, v, _ in points],
            [v.half_width or 0 for _, v, _ in points],
            fmt="o-", color=_LINE, ecolor="#b5ccd6", capsize=3,
        )  # fmt: skip
        own = [(x, v.mean) for x, v, recipe in points if recipe == comparison.plan.passes.recipe]
        axis.scatter(
            [x for x, _ in own], [y for _, y in own], color=_BEST, zorder=3,
            label=comparison.plan.passes.recipe,
        )  # fmt: skip
        axis.set_title(title, fontsize=11)
        axis.set_xlabel("more cycles of the array, %")
        axis.set_ylim(bottom=0)
        axis.grid(True, color="#eeeeee")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    write_file(path, rendered(lambda file: figure.savefig(file, dpi=130, format="png")))
    return True
