# SPDX-License-Identifier: Apache-2.0
"""The same array for other number formats, with as many rows as fit the same LUTs.

What a lane costs was synthesised (`lutvar/contract/data/array_costs.json`), the speed is modelled.
All that is not the array stays as it is: ports, attention, POST.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.contract.costs import ArrayCost, load_array_costs
from lutvar.contract.memory import block_beats
from lutvar.contract.quant_preset import GROUP, SITE_NAMES
from lutvar.contract.sections import SECTIONS
from lutvar.contract.shape import TransformerShape
from lutvar.files import write_file
from lutvar.text import table

from .model import Estimator

NOTE = (
    "LUT of a lane: synthesised, form da, memory included. Rows: as many row groups of 16 as fit "
    "the LUT of the reference's lanes. Speed: modelled. 32 vectors are {beats} of 64 bytes; each "
    "weight port of the configuration brings one in a cycle. Image quality is not compared."
)


@dataclass(frozen=True)
class CompareCase:
    """A pair of formats in the array: all weights and activations, `dual` after GELU."""

    title: str
    weight: str
    plain: str
    dual: str | None = None

    def quant(self) -> dict[str, Any]:
        """The preset that runs it, as plain data; rotations as in fp4 and fp6."""
        sites: dict[str, Any] = {
            name: {"activation": self.plain, "rotate": name in ("qkv", "fc1")}
            for name in SITE_NAMES
        }
        sites["fc2"]["activation"] = self.dual or self.plain
        return {"name": self.title.lower(), "weight": self.weight, "sites": sites}


CASES = (
    CompareCase("FP4", "E2M1", "E2M1", "DUAL4"),
    CompareCase("FP6", "E2M3", "E2M3", "DUAL6"),
    CompareCase("INT4", "INT4", "INT4"),
    CompareCase("INT8", "INT8", "INT8"),
)
REFERENCE = CASES[0]  #: its array gives the LUTs that the others may use


@dataclass(frozen=True)
class Compared:
    """One line. `None` where the lane has not been synthesised, or not one row group fits.

    Attributes:
        title, weight, plain, dual: the formats.
        bits: of a weight code.
        lut_lane: LUT sites of a multiplier lane.
        rows: token rows of the array. lut: sites of all its lanes.
        images_per_second, gigabytes_per_second, utilisation: modelled.
        relative: images a second, the reference being 1.
    """

    title: str
    weight: str
    plain: str
    dual: str | None
    bits: int
    lut_lane: float | None
    rows: int | None
    lut: int | None
    images_per_second: float | None = None
    gigabytes_per_second: float | None = None
    utilisation: float | None = None
    relative: float | None = None


def lane_cost(case: CompareCase, costs: Sequence[ArrayCost]) -> float | None:
    """LUT sites of a lane of the form `da`; None when it has not been measured."""
    key = ("da", case.weight, case.plain, case.dual)
    return next((c.lut for c in costs if (c.form, c.weight, c.plain, c.dual) == key), None)


def equal_rows(budget: float, lut_lane: float) -> int:
    """Rows whose lanes fit a number of LUTs, in whole row groups."""
    return int(budget / (lut_lane * GROUP) + 1e-9) // ROW_GROUP * ROW_GROUP


def compare(
    config: AcceleratorConfig, shape: TransformerShape, model: str, *,
    schedule: str = "stagger", batch: int = 1, guided: bool = True, clock: float = 250.0,
    full: bool = False, costs: Sequence[ArrayCost] | None = None,
    cases: Sequence[CompareCase] = CASES, on_done: Callable[[int, int], None] | None = None,
) -> list[Compared]:  # fmt: skip
    """One line for each format, at the LUTs that `config`'s rows take in the reference format.

    `on_done` is called with the number of formats so far and of all.

    Raises ValueError when the reference has no cost.
    """
    costs_of_lanes = load_array_costs() if costs is None else costs
    reference = lane_cost(REFERENCE, costs_of_lanes)
    if reference is None:
        raise ValueError(f"no cost of a lane for {REFERENCE.title}; measure it first")
    budget = reference * GROUP * config.rows
    lines: list[Compared] = []
    first: float | None = None
    for number, case in enumerate(cases):
        if on_done is not None:
            on_done(number, len(cases))
        with tempfile.TemporaryDirectory() as folder:
            quant = case.quant()
            preset = Path(folder, f"{quant['name']}.yaml")
            write_file(preset, yaml.safe_dump(quant))
            changed = config.model_copy(update={"quant": str(preset), "dot": "da"})
            bits, lut = changed.quant_config.code_bits, lane_cost(case, costs_of_lanes)
            rows = equal_rows(budget, lut) if lut is not None else 0
            formats = (case.title, case.weight, case.plain, case.dual, bits)
            if lut is None or not rows:
                lines.append(Compared(*formats, lut, None, None))
                continue
            name = f"{config.name}, {case.title}"
            # Few rows do not split into as many sections.
            sections = max(s for s in SECTIONS if s <= min(config.max_sections, rows // ROW_GROUP))
            update = {"rows": rows, "name": name, "max_sections": sections}
            sized = changed.model_copy(update=update)
            estimate = Estimator(sized, shape, model, clock=clock, full=full).estimate(
                schedule, batch, guided
            )
        speed = estimate.images_per_second
        first = speed if first is None else first
        lines.append(
            Compared(
                *formats, lut, rows, round(lut * GROUP * rows), speed,
                estimate.gigabytes_per_second, estimate.utilisation, speed / first,
            )
        )  # fmt: skip
    return lines


def compare_note(lines: Sequence[Compared]) -> str:
    """What the table's figures are."""
    beats = {line.bits: block_beats(line.bits, first=False) for line in lines}
    text = ", ".join(f"{n} beats at {bits} bits" for bits, n in sorted(beats.items()))
    return NOTE.format(beats=text)


def compare_dict(lines: Sequence[Compared], config: str, model: str) -> dict[str, Any]:
    """Plain data."""
    return {
        "modelled": True,
        "config": config,
        "model": model,
        "note": compare_note(lines),
        "formats": [asdict(line) for line in lines],
    }


def compare_text(lines: Sequence[Compared], config: str, model: str) -> str:
    """Table for a terminal."""

    def cell(value: float | None, form: str) -> str:
        return "not measured" if value is None else format(value, form)

    rows = [
        (
            x.title, f"{x.weight} x {x.plain}" + (f", {x.dual}" if x.dual else ""),
            cell(x.lut_lane, ".2f"), cell(x.rows, "d"), cell(x.lut, ",d"),
            cell(x.images_per_second, ".2f"), cell(x.relative, ".2f"),
            cell(x.gigabytes_per_second, ".1f"),
        )
        for x in lines
    ]  # fmt: skip
    head = ("format", "weights x activations", "LUT/lane", "rows", "array LUT", "image/s",
            "relative", "GB/s")  # fmt: skip
    title = f"{model}, the array of {config} in other formats at equal LUTs: modelled"
    return f"{title}\n{table(head, rows)}\n{compare_note(lines)}"
