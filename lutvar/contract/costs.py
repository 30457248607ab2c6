# SPDX-License-Identifier: Apache-2.0
"""Synthesised area that comes with the package: a unit's figures, lanes of the array.

The files in `data` are written by `python -m lutvar.bench.measure` and
`python -m lutvar.bench.array`; estimates and recipes read them. Nothing here synthesises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DATA = Path(__file__).with_name("data")
ARRAY_COSTS = DATA / "array_costs.json"


@dataclass(frozen=True)
class UnitCost:
    """Resources of one unit.

    Attributes:
        lut: LUT sites after packing, memory included. lut_unpacked: before packing.
        ff, dsp, uram: primitives. bram36: block RAMs, two of 18 Kbit being one.
        levels: logic levels -> number of register inputs and output ports at that depth.
        seconds: that the synthesis took. source: the tool.
    """

    lut: int
    lut_unpacked: int
    ff: int
    dsp: int
    bram36: int
    uram: int
    levels: dict[int, int]
    seconds: float
    source: str

    @property
    def max_levels(self) -> int:
        """LUT levels of the longest path between registers."""
        return max(self.levels, default=0)

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> UnitCost:
        """From the plain data of `as_dict`."""
        return cls(**{**raw, "levels": {int(k): n for k, n in raw["levels"].items()}})

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class ArrayCost:
    """A measured cost; per lane of `rows` x 128 unless said otherwise.

    Attributes:
        form, weight, plain, dual, engines: as in `lutvar.bench.array.ArrayCase`.
        lut: LUT sites after packing, memory included.
        lut_mapped: LUTs before packing, memory included.
        lutram: LUT sites used as memory.
        ff: flip-flops.
        levels: LUT levels -> number of register inputs at that depth, in all rows.
        latency, fill: cycles from weights to sums; idle cycles after a new operand.
        tool: what mapped it.
    """

    form: str
    weight: str
    plain: str
    dual: str | None
    engines: int
    rows: int
    lut: float
    lut_mapped: float
    lutram: float
    ff: float
    levels: dict[int, int]
    latency: int
    fill: int
    tool: str

    @property
    def max_levels(self) -> int:
        """LUT levels of the longest path between registers."""
        return max(self.levels)


def load_array_costs(path: Path = ARRAY_COSTS) -> list[ArrayCost]:
    """The measured costs that come with the package.

    Raises:
        OSError, ValueError, KeyError: the file is missing or is not what this module wrote.
    """
    raw = json.loads(path.read_text(encoding="utf-8"))
    return [
        ArrayCost(**{**item, "levels": {int(k): n for k, n in item["levels"].items()}})
        for item in raw["costs"]
    ]
