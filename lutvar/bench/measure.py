# SPDX-License-Identifier: Apache-2.0
"""Synthesises the accelerator's units with Yosys: the points that `resources` adds up.

    python -m lutvar.bench.measure vck190-fp4 [UNIT ...] [--set KEY=VALUE ...]

adds area, memories and the histogram of logic levels of each unit to
`lutvar/contract/data/units.json`; `--set` changes the size. `--list` says for each unit how its
figures are known, and whether its Verilog is still what was mapped. A large unit takes minutes;
what `lutvar bench` has mapped already is not mapped again. A system Yosys takes a third of the time
of the one from PyPI.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.unit_costs import (
    UNIT_COSTS,
    UnitPoint,
    estimate_unit,
    load_points,
    save_point,
    unit_fields,
)
from lutvar.yaml_files import parse_yaml, validate

from .units import CACHE, UNITS, synthesise_unit, verilog_hash

_PROG = "python -m lutvar.bench.measure"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure some units, all by default, and add them to the points."""
    parser = argparse.ArgumentParser(prog=_PROG, description=__doc__.partition("\n")[0])
    parser.add_argument("config", help="accelerator size, a name or a YAML file")
    parser.add_argument("units", nargs="*", metavar="UNIT", help=f"of {', '.join(UNITS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="changes")
    parser.add_argument("--list", action="store_true", help="synthesise nothing")
    parser.add_argument("--file", type=Path, default=UNIT_COSTS, help="where the points are")
    parser.add_argument("--cache", type=Path, default=CACHE, help="what was mapped before")
    options = parser.parse_args(arguments)
    try:
        config = _changed(load_accelerator(options.config), options.changes)
    except ValueError as error:
        parser.error(str(error))
    units = options.units or list(UNITS)
    if unknown := [name for name in units if name not in UNITS]:
        parser.error(f"unknown units {', '.join(unknown)}; known are {', '.join(UNITS)}")
    if options.list:
        _list(config, units, load_points(options.file))
        return
    for name in units:
        cost, verilog = synthesise_unit(name, config, options.cache), verilog_hash(name, config)
        command = " ".join(
            [_PROG, options.config, name, *(f"--set {change}" for change in options.changes)]
        )
        point = UnitPoint(name, unit_fields(name, config), verilog, command, cost)
        save_point(point, options.file)  # after each: a run that breaks off keeps what it has
        print(name, cost.as_dict(), flush=True)


def _changed(config: AcceleratorConfig, changes: Sequence[str]) -> AcceleratorConfig:
    """A configuration with other values, each a KEY=VALUE as YAML reads it."""
    values = config.model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in values:
            raise ValueError(f"--set {change}: must be KEY=VALUE with a key of {', '.join(values)}")
        values |= parse_yaml(f"{key}: {value}", "--set")
    return validate(type(config), values, "--set")


def _list(config: AcceleratorConfig, units: Sequence[str], points: Sequence[UnitPoint]) -> None:
    """How the figures of each unit are known."""
    for name in units:
        found = estimate_unit(name, config, points)
        if found is None:
            print(f"{name}: no figures")
            continue
        stale = ""
        if found.how == "synthesised" and found.points[0].verilog != verilog_hash(name, config):
            stale = "; its Verilog has changed since"
        print(f"{name}: {found.amounts['lut']:.0f} LUT, {found.how}{stale}")


if __name__ == "__main__":
    main()
