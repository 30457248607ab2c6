# SPDX-License-Identifier: Apache-2.0
"""The Pareto front of what was tried, what is picked from it, and the file of a pick."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.files import write_file
from lutvar.text import table

from .space import CLOCK, RECIPE, ExploreError
from .trial import OBJECTIVES, Task, Worth

#: What each pick wants most of: the larger, the better. Ties go to fewer LUTs, then to quality.
PICKS: dict[str, Callable[[Worth], float]] = {
    "latency": lambda worth: worth.single,
    "throughput": lambda worth: worth.throughput,
    "balanced": lambda worth: math.sqrt(worth.single * worth.throughput),
}
#: Differences below this share decide nothing: cycle model and synthesis are not that exact.
_EVEN = 0.002
#: What a limit is of, for people.
_LIMITS = {
    "lut": "LUTs", "dsp": "DSP58", "bram36": "block RAM", "uram": "UltraRAM",
    "noc_ports": "ports of the NoC", "link": "bandwidth of a NoC port",
    "memory": "memory bandwidth", "kl": "the KL of the recipe",
    "rules": "values that exclude each other", "synthesis": "units that were not synthesised",
    "model": "sizes that cannot run the model",
}  # fmt: skip


def pareto(worths: Sequence[Worth], objectives: Sequence[str]) -> list[Worth]:
    """Candidates within the limits that no other one beats in all objectives, fastest alone first.

    Of several with the same figures the first one counts.
    """
    feasible = [worth for worth in worths if worth.feasible]
    points = [
        tuple(w.objective(n) * (1 if OBJECTIVES[n] else -1) for n in objectives) for w in feasible
    ]  # fmt: skip
    front = []
    for i, (worth, point) in enumerate(zip(feasible, points, strict=True)):
        beaten = any(
            all(b >= a for a, b in zip(point, other, strict=True)) and (other != point or j < i)
            for j, other in enumerate(points)
            if j != i
        )
        if not beaten:
            front.append(worth)
    return sorted(front, key=lambda worth: -worth.single)


def pick(front: Sequence[Worth], what: str) -> Worth:
    """The candidate of a front that a pick wants.

    Among those that are as good as the best but for 0.2 %, the one with fewest LUTs.
    """
    wanted = PICKS[what]
    most = max(wanted(worth) for worth in front)
    even = [worth for worth in front if wanted(worth) >= most * (1 - _EVEN)]
    return min(even, key=lambda worth: (worth.kl, worth.used["lut"]))


def require_feasible(worths: Sequence[Worth]) -> None:
    """Raise ExploreError, naming the nearest limit, unless a candidate is within all limits."""
    if any(worth.feasible for worth in worths):
        return
    if not worths:
        raise ExploreError("nothing was tried: give --trials a number above 0")
    nearest = min(worths, key=lambda worth: max(worth.excess.values()))
    name, excess = max(nearest.excess.items(), key=lambda item: item[1])
    if nearest.reason:
        what = f"the nearest is stopped by {_LIMITS[name]}: {nearest.reason}"
    else:
        what = f"the nearest passes its limit of {_LIMITS[name]} by {100 * excess:.1f} %"
    values = ", ".join(f"{key} {value}" for key, value in nearest.values.items())
    raise ExploreError(
        f"none of {len(worths)} candidates is within all limits; {what} ({values}); widen the "
        "space or the limit"
    )


def front_text(task: Task, worths: Sequence[Worth], front: Sequence[Worth]) -> str:
    """The front as a table; every speed is modelled."""
    chosen: dict[int, list[str]] = {}
    for name in PICKS:
        chosen.setdefault(id(pick(front, name)), []).append(name)
    keys = [key for key, values in task.space.dimensions.items() if len(values) > 1]
    limits = task.space.limits
    rows = [
        (
            *(worth.values[key] for key in keys), f"{worth.single:.2f}",
            f"{worth.throughput:.2f}", f"{worth.per_lut:.2f}",
            *([f"{worth.kl:.4f}"] if task.space.recipes else []),
            *(f"{worth.used[kind]:,}" for kind in ("lut", "dsp", "bram36", "uram")),
            f"{worth.gbs:.1f}", f"{worth.bound[0]}, {worth.bound[1]}",
            "synthesised" if worth.synthesised else "interpolated",
            ", ".join(chosen.get(id(worth), [])),
        )
        for worth in front
    ]  # fmt: skip
    head = [*keys, "alone", "staggered", "per MLUT", *(["KL"] if task.space.recipes else []), "LUT",
            "DSP", "BRAM36", "URAM", "GB/s", "bound", "units", "pick"]  # fmt: skip
    feasible = sum(worth.feasible for worth in worths)
    return "\n".join(
        [
            f"{task.model} in the space {task.space.name}: {len(worths)} candidates of "
            f"{task.space.size:,} tried, {feasible} within the limits, {len(front)} on the front",
            f"limits: LUT {limits.lut:.0%}, DSP {limits.dsp:.0%}, BRAM {limits.bram36:.0%}, URAM "
            f"{limits.uram:.0%} of XCVC1902, {limits.link_gbs:g} GB/s a port, "
            f"{limits.memory_gbs:g} GB/s in all",
            "image/s alone and staggered (one image at each scale) are modelled:",
            table(head, rows),
        ]
    )


def front_dict(task: Task, worths: Sequence[Worth], front: Sequence[Worth]) -> dict[str, Any]:
    """The front as plain data."""
    picks = {name: front.index(pick(front, name)) for name in PICKS}
    return {
        "modelled": True,
        "model": task.model,
        "space": task.space.model_dump(),
        "objectives": task.objectives,
        "tried": len(worths),
        "feasible": sum(worth.feasible for worth in worths),
        "front": [worth.as_dict() for worth in front],
        "picks": picks,
    }


def config_of(task: Task, worth: Worth, name: str) -> AcceleratorConfig:
    """The accelerator of a candidate, under a name."""
    return task.space.config(worth.values, task.quality, name)


def write_pick(path: Path, task: Task, worth: Worth, what: str, command: str) -> AcceleratorConfig:
    """Write the YAML file of a pick, which `lutvar estimate` and `lutvar export` read.

    Fields that have their default are left out, unless the space varies them. The file is replaced
    as a whole, and read back.
    """
    config = config_of(task, worth, path.stem)
    fields = type(config).model_fields
    base = load_accelerator(task.space.base)
    shown = {
        key: value
        for key, value in config.model_dump().items()
        if key in task.space.fields
        or fields[key].is_required()
        or value != fields[key].get_default()
        or getattr(base, key) != fields[key].get_default()
    }
    recipe = f", recipe {worth.values[RECIPE]}" if task.space.recipes else ""
    units = "synthesised" if worth.synthesised else "in part interpolated"
    head = [
        f"# What the search picks for {what}: {task.model}, {worth.values[CLOCK]:g} MHz{recipe};",
        f"# {worth.single:.2f} image/s alone, {worth.throughput:.2f} staggered (modelled), "
        f"{worth.used['lut']:,} LUT ({units}).",
        f"# {command}",
    ]
    body = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    write_file(path, "\n".join(head) + "\n" + body)
    return load_accelerator(path)
