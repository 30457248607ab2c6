# SPDX-License-Identifier: Apache-2.0
"""Synthesises the accelerator's units with Yosys: the figures that `resources` adds up.

    python -m lutvar.bench.measure vck190-fp4 [UNIT ...]

writes `lutvar/contract/data/<config>.json`: area, memories and the histogram of logic levels.
It takes minutes for each large unit; what `lutvar bench` has mapped already is not mapped again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.costs import load_units, save_units

from .units import UNITS, synthesise_unit


def main(arguments: Sequence[str]) -> None:
    """Measure some units, all by default, and merge them into the configuration's file."""
    config = load_accelerator(arguments[0])
    units = list(arguments[1:]) or list(UNITS)
    if unknown := [name for name in units if name not in UNITS]:
        raise SystemExit(f"unknown units {', '.join(unknown)}; known are {', '.join(UNITS)}")
    costs = load_units(config.name)
    for name in units:
        costs[name] = synthesise_unit(name, config)
        save_units(config.name, costs)  # after each: a run that breaks off keeps what it has
        print(name, costs[name].as_dict(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
