# SPDX-License-Identifier: Apache-2.0
"""The front as a picture: image/s alone against image/s staggered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lutvar.files import rendered, write_file

from .front import PICKS, pick
from .trial import Task, Worth

_FRONT, _TRIED, _INK = "#1f6f8b", "#c5dbe2", "#333333"


def draw_front(path: Path, task: Task, worths: Sequence[Worth], front: Sequence[Worth]) -> None:
    """Write a PNG: everything within the limits, the front in front of it, the picks by name."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    feasible = [worth for worth in worths if worth.feasible]
    axis.scatter(
        [w.single for w in feasible], [w.throughput for w in feasible], s=14, color=_TRIED,
        label=f"within the limits ({len(feasible)} of {len(worths)} tried)",
    )  # fmt: skip
    axis.scatter(
        [w.single for w in front], [w.throughput for w in front], s=26, color=_FRONT, zorder=3,
        label=f"front ({len(front)})",
    )  # fmt: skip
    labels: dict[tuple[float, float], list[str]] = {}
    for name in PICKS:
        worth = pick(front, name)
        labels.setdefault((worth.single, worth.throughput), []).append(name)
    middle = (min(w.single for w in feasible) + max(w.single for w in feasible)) / 2
    for point, names in labels.items():
        side = -8 if point[0] > middle else 8
        axis.annotate(
            ", ".join(names), point, xytext=(side, 8), textcoords="offset points", fontsize=9,
            color=_INK, ha="right" if side < 0 else "left",
        )  # fmt: skip
    axis.margins(0.08)
    axis.set_xlabel("image/s, one image alone (modelled)")
    axis.set_ylabel("image/s, staggered (modelled)")
    axis.set_title(f"{task.model}, space {task.space.name}", fontsize=11)
    axis.grid(True, color="#eeeeee")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False, loc="lower left")
    write_file(path, rendered(lambda file: figure.savefig(file, dpi=130, format="png")))
