# SPDX-License-Identifier: Apache-2.0
"""Synthesises the accelerator's units with Yosys: the figures that `resources` adds up.

    python -m lutvar.estimate.measure vck190-fp4 [UNIT ...]

writes ``lutvar/estimate/data/<config>.json``: area, memories and the histogram of logic levels.
It takes minutes for each large unit; what `lutvar bench` has mapped already is not mapped again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from lutvar.bench.units import UNITS, UnitCost, synthesise_unit
from lutvar.contract.accelerator import load_accelerator

DATA = Path(__file__).parent / "data"


def load(name: str, folder: Path = DATA) -> dict[str, UnitCost]:
    """The measured units of a configuration; none when there is no file."""
    path = folder / f"{name}.json"
    raw = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {unit: UnitCost.of(item) for unit, item in raw.items()}


def save(name: str, costs: dict[str, UnitCost], folder: Path = DATA) -> None:
    """Write the file of a configuration."""
    folder.mkdir(exist_ok=True)
    raw = {unit: cost.as_dict() for unit, cost in costs.items()}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(raw, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Measure some units, all by default, and merge them into the configuration's file."""
    config = load_accelerator(arguments[0])
    chosen = list(arguments[1:]) or list(UNITS)
    if unknown := [name for name in chosen if name not in UNITS]:
        raise SystemExit(f"unknown units {', '.join(unknown)}; known are {', '.join(UNITS)}")
    costs = load(config.name)
    for name in chosen:
        costs[name] = synthesise_unit(name, config)
        save(config.name, costs)  # after each: a run that breaks off keeps what it has
        print(name, costs[name].as_dict(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
