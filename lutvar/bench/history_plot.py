# SPDX-License-Identifier: Apache-2.0
"""The picture of the benchmark history: a panel for each figure with a target."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from lutvar.files import rendered, write_file

from .history import Entry, read

_COLUMNS = 4
_COLOURS = ("#1f6f8b", "#b8860b", "#5b8c5a", "#7a5195", "#444444")
_MISSED = "#c0392b"


def machine_name(entry: Entry) -> str:
    """Processor and cores: timed figures of different machines do not compare."""
    cpu, cores = entry.machine.get("cpu"), entry.machine.get("cores")
    return f"{cpu}, {cores} cores" if cpu else "machine not recorded"


def panels(entries: Sequence[Entry]) -> list[str]:
    """Names of the figures that get a panel, in the order in which they first appeared."""
    named = ((name, figure) for entry in entries for name, figure in entry.figures.items())
    return list(dict.fromkeys(name for name, figure in named if figure.target is not None))


def draw(entries: Sequence[Entry], path: Path) -> None:
    """Write a PNG: each panel has the runs from left to right, the target as a dashed line.

    A point has its machine's colour; a red ring marks a missed target.

    Raises:
        ValueError: no entry has a figure with a target.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    names = panels(entries)
    if not names:
        raise ValueError("the history has no figure with a target: there is nothing to draw")
    rows = math.ceil(len(names) / _COLUMNS)
    figure = Figure(figsize=(12, 1.9 * rows + 1.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).ravel()
    machines = list(dict.fromkeys(machine_name(entry) for entry in entries))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(machines)}
    for axis, name in zip(axes, names, strict=False):
        points = [(i, e, e.figures[name]) for i, e in enumerate(entries) if name in e.figures]
        newest = points[-1][2]
        axis.plot([i for i, _, _ in points], [f.value for _, _, f in points], color="#bbbbbb")
        for i, entry, point in points:
            ring = _MISSED if point.missed else "none"
            axis.scatter(
                i, point.value, s=26, zorder=3, color=colours[machine_name(entry)],
                edgecolor=ring, linewidth=1.6,
            )  # fmt: skip
        target = newest.target
        if target is not None:
            axis.axhline(target, color="#777777", linestyle="--", linewidth=0.9)
        axis.set_title(name, fontsize=8)
        axis.set_ylabel(newest.unit, fontsize=8)
        highest = max([f.value for _, _, f in points] + [newest.target or 0.0])
        axis.set_ylim(0, 1.15 * highest if highest > 0 else 1.0)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for column in range(min(_COLUMNS, len(names))):
        lowest = axes[max(i for i in range(len(names)) if i % _COLUMNS == column)]
        lowest.set_xticks(range(len(entries)), [e.label for e in entries], rotation=90)
        lowest.set_xlim(-0.5, len(entries) - 0.5)
        lowest.tick_params(axis="x", labelbottom=True)
    handles = [
        *(Line2D([], [], marker="o", linestyle="", color=c, label=n) for n, c in colours.items()),
        Line2D([], [], color="#777777", linestyle="--", label="target"),
        Line2D(
            [], [], marker="o", linestyle="", color="white", markeredgecolor=_MISSED,
            label="target missed",
        ),
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    write_file(path, rendered(lambda file: figure.savefig(file, dpi=110, format="png")))


def main(arguments: list[str] | None = None) -> None:
    """Draw a history: `python -m lutvar.bench.history_plot FILE [-o PICTURE]`."""
    prog = "python -m lutvar.bench.history_plot"
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("file", type=Path, help="what lutvar bench --history wrote")
    parser.add_argument("-o", "--out", type=Path, help="PNG file (default: beside it)")
    options = parser.parse_args(arguments)
    try:
        draw(read(options.file), options.out or options.file.with_suffix(".png"))
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
