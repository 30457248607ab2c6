# SPDX-License-Identifier: Apache-2.0
"""A space that is searched in seconds: a tiny model on sizes of small-fp4, units at invented costs.

The costs are such that rows and query rows compete for LUTs: not all candidates are within 70 %.
"""

from __future__ import annotations

from dataclasses import replace

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.costs import UnitCost
from lutvar.contract.shape import TransformerShape
from lutvar.contract.unit_costs import UNIT_FIELDS, UnitPoint, unit_fields
from lutvar.sim.explore.space import Space
from lutvar.sim.explore.trial import Task

SHAPE = TransformerShape(128, 2, 2, 512, 96, (1, 2, 4))
BASE = load_accelerator("small-fp4")
_LUTS = {"front": 30_000, "post": 20_000, "matrix": 1_000, "row_group": 60_000}


def cost(lut: int, dsp: int = 0) -> UnitCost:
    return UnitCost(
        lut=lut, lut_unpacked=lut, ff=0, dsp=dsp, bram36=1, uram=0, levels={1: 1}, seconds=1.0,
        source="Yosys",
    )  # fmt: skip


def points() -> tuple[UnitPoint, ...]:
    """Each unit once, ATTEND at two sizes: 40,000 LUT, 30,000 a query row."""
    found = []
    for unit in UNIT_FIELDS:
        if unit != "attend":
            fields = unit_fields(unit, BASE)
            found.append(UnitPoint(unit, fields, "", "", cost(_LUTS.get(unit, 1000), 10)))
            continue
        for rows in (1, 3):
            config = BASE.model_copy(update={"attention_rows": rows})
            figures = cost(40_000 + 30_000 * rows, 20 * rows)
            found.append(UnitPoint(unit, unit_fields(unit, config), "", "", figures))
    return tuple(found)


def space(**changes: object) -> Space:
    return Space(
        **{
            "name": "tiny", "base": "small-fp4",
            "fields": {
                "rows": {"low": 16, "high": 160, "step": 16},
                "attention_rows": {"low": 1, "high": 8},
                "act_banks": [2, 3],
            },
            **changes,
        }
    )  # fmt: skip


def task(**changes: object) -> Task:
    return replace(Task(space(), "tiny", SHAPE, points=points()), **changes)  # type: ignore[arg-type]
