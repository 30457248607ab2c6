# SPDX-License-Identifier: Apache-2.0
"""What a unit of the accelerator costs, from sizes at which it was synthesised.

Each point is one synthesis: a unit, the configuration's fields that it depends on, what came out.
`python -m lutvar.bench.measure` writes them to `data/units.json`. A unit of a size that has no
point gets its figures from those of its circuit: area is a linear function of the fields that
repeat parts of it (query rows, ports), so a weighted mean of points gives it. Nothing here
synthesises.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from lutvar.files import json_text, write_file

from .accelerator import AcceleratorConfig
from .costs import DATA, UnitCost

UNIT_COSTS = DATA / "units.json"
#: Kinds of resources, as `UnitCost` calls them.
KINDS = ("lut", "ff", "dsp", "bram36", "uram")


@dataclass(frozen=True)
class UnitFields:
    """Fields of `AcceleratorConfig` that a unit depends on.

    Attributes:
        exact: another value makes another circuit.
        linear: the circuit repeats a part so often.
        minor: widths of counters, constants in comparisons, depths of memories that are counted
            from their sizes: next to no logic.
    """

    exact: tuple[str, ...] = ()
    linear: tuple[str, ...] = ()
    minor: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All of them, in order."""
        return (*self.exact, *self.linear, *self.minor)


_PORTS = ("weight_ports", "max_sections")
_LIMITS = ("rows", "act_banks", "bank_groups", "acc_banks", "acc_depth", "max_width", "max_keys",
           "queue")  # fmt: skip
_BANKS = ("act_banks", "bank_groups", "acc_banks", "acc_depth")
#: `matrix` is MATRIX without its row groups, each of which is a `row_group`.
UNIT_FIELDS: dict[str, UnitFields] = {
    "sequencer": UnitFields(("quant", "pipelined"), _PORTS, (*_LIMITS, "input_terms")),
    "control": UnitFields(("quant", "pipelined"), _PORTS, (*_LIMITS, "attention_rows", "dot")),
    "fetch": UnitFields(("pipelined",), _PORTS, ("weight_fifo",)),
    "front": UnitFields(
        ("quant", "pipelined", "input_terms"), ("max_sections",),
        ("max_width", "bank_groups", "read_fifo", "rows"),
    ),
    "post": UnitFields(
        ("kv_format", "pipelined", "decoder"), ("max_sections",),
        ("acc_banks", "read_fifo", "rows"),
    ),
    "attend": UnitFields(
        # The first row with its scores in multipliers makes the others' operands later.
        ("kv_format", "pipelined", "attention_dsp_rows"), ("attention_rows",),
        ("max_keys", "read_fifo"),
    ),
    "matrix": UnitFields(
        ("quant", "dot", "float32", "pipelined"), _PORTS,
        (*_BANKS, "weight_fifo", "rows", "input_terms"),
    ),
    "row_group": UnitFields(
        ("quant", "dot", "float32", "pipelined"), ("max_sections",), _BANKS
    ),
}  # fmt: skip


def unit_fields(unit: str, config: AcceleratorConfig) -> dict[str, Any]:
    """The fields that a unit depends on, with the values of a configuration."""
    known = type(config).model_fields
    return {key: getattr(config, key) for key in UNIT_FIELDS[unit].all if key in known}


@dataclass(frozen=True)
class UnitPoint:
    """One synthesis.

    Attributes:
        unit: name, as in `UNIT_FIELDS`.
        fields: what it depends on.
        verilog: hash of what was mapped; empty when it was not kept.
        command: what makes this point again.
        cost: what came out.
    """

    unit: str
    fields: Mapping[str, Any]
    verilog: str
    command: str
    cost: UnitCost

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> UnitPoint:
        """From the plain data of `as_dict`."""
        return cls(**{**raw, "cost": UnitCost.of(raw["cost"])})

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "unit": self.unit, "fields": dict(self.fields), "verilog": self.verilog,
            "command": self.command, "cost": self.cost.as_dict(),
        }  # fmt: skip


def load_points(path: Path = UNIT_COSTS) -> list[UnitPoint]:
    """All points of a file, by default those that come with the package; none without a file.

    Raises:
        ValueError, KeyError, TypeError: the file is not what `save_point` wrote.
    """
    if not path.exists():
        return []
    return [UnitPoint.of(raw) for raw in json.loads(path.read_text(encoding="utf-8"))["points"]]


def save_point(point: UnitPoint, path: Path = UNIT_COSTS) -> None:
    """Add a point to a file, in place of one of the same unit and fields.

    Two processes may add points at once: the file is locked meanwhile.
    """
    order = list(UNIT_FIELDS)
    path.parent.mkdir(exist_ok=True)
    # Beside the package's data a lock would be one more file of it.
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with FileLock(Path(tempfile.gettempdir(), f"lutvar-{name}.lock")):
        others = [p for p in load_points(path) if (p.unit, p.fields) != (point.unit, point.fields)]
        points = sorted(
            [*others, point], key=lambda p: (order.index(p.unit), json_text(dict(p.fields)))
        )
        write_file(path, json_text({"points": [p.as_dict() for p in points]}, indent=1) + "\n")


@dataclass(frozen=True)
class UnitEstimate:
    """Figures of a unit at some size.

    Attributes:
        amounts: by kind.
        levels: LUT levels of the longest path, over the points that it comes from.
        how: "synthesised" at this very size; "near": at a size that differs in minor fields only;
            "interpolated" or "extrapolated" from the sizes of `points`.
        points: what it comes from.
    """

    amounts: Mapping[str, float]
    levels: int
    how: str
    points: tuple[UnitPoint, ...]

    @property
    def source(self) -> str:
        """Where the figures come from, for a table."""
        tools = " and ".join(dict.fromkeys(p.cost.source for p in self.points))
        if self.how == "synthesised":
            return tools
        if self.how == "near":
            return f"{tools}, at nearly this size"
        return f"{tools}, {self.how} from {len(self.points)} sizes"


def estimate_unit(
    unit: str, config: AcceleratorConfig, points: Iterable[UnitPoint]
) -> UnitEstimate | None:
    """What a unit costs in a configuration; None when its points do not say.

    The weights of a mean are those of a least-squares plane through all points of the circuit.
    """
    names = UNIT_FIELDS[unit]
    wanted = unit_fields(unit, config)
    known = [p for p in points if p.unit == unit and _agree(p, wanted, names.exact)]
    same = [p for p in known if _agree(p, wanted, names.linear)]
    if same:
        best = max(same, key=lambda p: sum(_value(p, k) == wanted.get(k) for k in names.minor))
        how = "synthesised" if _agree(best, wanted, names.minor) else "near"
        return _mean([best], [1.0], how)
    # Of sizes that differ in minor fields alone, one stands for all.
    several = {tuple(_value(p, k) for k in names.linear): p for p in known}
    linear = [key for key in names.linear if key in wanted]
    weights = _weights(
        [[_value(p, key) for key in linear] for p in several.values()],
        [wanted[key] for key in linear],
    )
    if weights is None:
        return None
    how = "interpolated" if min(weights) >= -1e-9 else "extrapolated"
    return _mean(list(several.values()), weights, how)


def _value(point: UnitPoint, key: str) -> Any:
    """A field of a point; points from before a field exists have its first value."""
    return point.fields.get(key, 1)


def _agree(point: UnitPoint, wanted: Mapping[str, Any], keys: Sequence[str]) -> bool:
    return all(_value(point, key) == wanted[key] for key in keys if key in wanted)


def _weights(sizes: Sequence[Sequence[float]], wanted: Sequence[float]) -> list[float] | None:
    """Weights w of sizes with sum(w) = 1 and sum(w * size) = wanted, the smallest such; or None."""
    if not sizes:
        return None
    matrix = np.vstack([np.ones(len(sizes)), np.array(sizes, dtype=float).T])
    right = np.array([1.0, *wanted], dtype=float)
    found = np.linalg.lstsq(matrix, right, rcond=None)[0]
    if not np.allclose(matrix @ found, right, atol=1e-6):
        return None
    return [float(w) for w in found]


def _mean(points: Sequence[UnitPoint], weights: Sequence[float], how: str) -> UnitEstimate:
    amounts = {
        kind: max(0.0, sum(w * getattr(p.cost, kind) for p, w in zip(points, weights, strict=True)))
        for kind in KINDS
    }
    return UnitEstimate(amounts, max(p.cost.max_levels for p in points), how, tuple(points))
