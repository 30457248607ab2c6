# SPDX-License-Identifier: Apache-2.0
"""Figures that are computed or synthesised: estimates, searches, costs of units, comparisons."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from .report import FileReport

Data = dict[str, Any]


def estimate(_path: Path, data: Data) -> FileReport:
    """One estimate."""
    keys = ("config", "model", "schedule", "batch", "clock_mhz", "images_per_second", "bound")
    return FileReport(
        "estimate of `lutvar estimate --json` (modelled)", facts={key: data[key] for key in keys}
    )


def estimates(entries: list[Data]) -> FileReport:
    """A table of estimates."""
    sizes = sorted({str(item["model"]) for item in entries})
    return FileReport(
        "table of `lutvar estimate --table --json`",
        facts={"estimates": len(entries), "models": sizes},
    )


def comparison(_path: Path, data: Data) -> FileReport:
    """Arrays of other formats."""
    return FileReport(
        "comparison of `lutvar estimate --compare --json` (modelled)",
        facts={"config": data["config"], "model": data["model"], "formats": len(data["formats"])},
    )


def front(_path: Path, data: Data) -> FileReport:
    """The Pareto front of a search."""
    return FileReport(
        "Pareto front of `lutvar explore` (modelled)",
        facts={
            "model": data["model"],
            "space": data["space"]["name"],
            "objectives": data["objectives"],
            "tried": data["tried"],
            "feasible": data["feasible"],
            "front": len(data["front"]),
            "written": data.get("written"),
        },
    )


def unit_costs(_path: Path, data: Data) -> FileReport:
    """Synthesised units at the sizes of configurations."""
    return FileReport(
        "costs of units (synthesised)",
        read_by="lutvar estimate, lutvar explore --costs",
        facts={
            "points": len(data["points"]),
            "units": dict(Counter(point["unit"] for point in data["points"])),
            "tools": sorted({point["cost"]["source"] for point in data["points"]}),
        },
    )


def unit_cost(_path: Path, data: Data) -> FileReport:
    """One unit, as it is kept so that its Verilog is not mapped again."""
    keys = ("lut", "ff", "dsp", "bram36", "uram", "source")
    return FileReport("cost of a unit (synthesised)", facts={key: data[key] for key in keys})


def array_costs(_path: Path, data: Data) -> FileReport:
    """Arrays of multipliers in several formats."""
    return FileReport(
        "costs of arrays in other formats (synthesised)",
        read_by="lutvar estimate --compare",
        facts={
            "command": data["command"],
            "unit": data["unit"],
            "arrays": len(data["costs"]),
            "tools": sorted({cost["tool"] for cost in data["costs"]}),
        },
    )


def results(_path: Path, data: Data) -> FileReport:
    """Where each row of the comparison of recipes stands."""
    states = Counter(row["state"] for row in data["rows"])
    return FileReport(
        "rows of `lutvar results`",
        facts={
            "rows": len(data["rows"]),
            "states": dict(sorted(states.items())),
            "measured_now": len(data["measured_now"]),
        },
    )


def passes_curve(_path: Path, data: Data) -> FileReport:
    """Accuracy over the array's cycles."""
    keys = ("model", "recipe", "images", "seed")
    return FileReport(
        "accuracy over cycles, of `python -m lutvar.quant.eval.passes_curve`",
        facts={**{key: data[key] for key in keys}, "points": len(data["points"])},
    )
