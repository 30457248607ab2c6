# SPDX-License-Identifier: Apache-2.0
"""Quality of recipes: KL to the float model, from the record that `lutvar results` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lutvar.quant.eval.record import Row, read_rows
from lutvar.yaml_files import shipped

_KL = "forced.kl_nats"
#: How a row was computed, the better evidence first: what the device computes, or rounded floats.
_ON = ("golden", "fake")


class QualityError(ValueError):
    """A recipe without a quality; one line that says which, and what to do."""


@dataclass(frozen=True)
class Quality:
    """A recipe that the accelerator runs.

    Attributes:
        preset, kv_format: what an accelerator needs to run it.
        kl: nat, mean over tokens and seeds. on: "golden" or "fake". model: it was measured on.
    """

    recipe: str
    preset: str
    kv_format: str
    kl: float
    on: str
    model: str


def load_quality(path: Path, recipes: Sequence[str]) -> dict[str, Quality]:
    """KL of some recipes, all computed in the same way: by the golden model if all are measured so.

    Of several rows of a recipe the one with most images counts.

    Raises:
        RecordError: the file cannot be read, or is no record.
        QualityError: a recipe is unknown, was not measured, or does not run.
    """
    rows = [row for row in read_rows(path) if row.key.task == "generate" and row.figure(_KL)]
    for recipe in recipes:
        own = [row for row in rows if row.key.recipe == recipe]
        if not own:
            _refuse(path, recipe, rows)
        if not any(_runs(row) for row in own):
            hardware = own[0].hardware
            why = hardware.missing[0] if hardware and hardware.missing else "no reason recorded"
            raise QualityError(f"recipe {recipe!r} does not run on the accelerator: {why}")
    for on in _ON:
        found = {recipe: _best(rows, recipe, on) for recipe in recipes}
        if all(found.values()):
            return {recipe: quality for recipe, quality in found.items() if quality}
    raise QualityError(
        f"{path}: no two recipes of {', '.join(recipes)} were computed in the same way; measure "
        "them: lutvar results --only RECIPE"
    )


def _refuse(path: Path, recipe: str, rows: Sequence[Row]) -> None:
    if recipe in shipped("recipes"):
        raise QualityError(
            f"{path}: no KL of recipe {recipe!r}; measure it: lutvar results --only {recipe}"
        )
    known = dict.fromkeys(row.key.recipe for row in rows if _runs(row))
    raise QualityError(
        f"unknown recipe {recipe!r}; those with a KL in {path} that the accelerator runs are "
        f"{', '.join(known) or 'none'}"
    )


def _runs(row: Row) -> bool:
    return row.hardware is not None and row.hardware.runs and row.hardware.preset is not None


def _best(rows: Sequence[Row], recipe: str, on: str) -> Quality | None:
    own = [r for r in rows if r.key.recipe == recipe and r.key.on == on and _runs(r)]
    if not own:
        return None
    row = max(own, key=lambda r: r.key.samples * len(r.key.seeds))
    kl = row.figure(_KL)
    if row.hardware is None or row.hardware.preset is None or kl is None:
        return None
    return Quality(recipe, row.hardware.preset, row.hardware.kv_format, kl.mean, on, row.key.model)
