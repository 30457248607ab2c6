# SPDX-License-Identifier: Apache-2.0
"""What a multiplier lane of the array costs, in each form and for each pair of formats.

`python -m lutvar.bench.array` measures all of them (Yosys, some minutes each) and writes
`lutvar/contract/data/array_costs.json`, which `contract.costs` reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import Out

from lutvar.contract.accelerator import ROW_GROUP
from lutvar.contract.costs import ARRAY_COSTS, ArrayCost, load_array_costs
from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import GROUP
from lutvar.files import json_text, write_file
from lutvar.hw.matrix.da import DaRows
from lutvar.hw.matrix.da_design import ENGINES, DaDesign
from lutvar.hw.matrix.table import RowOperand
from lutvar.hw.units.dot import TableDot
from lutvar.hw.units.product import make_product
from lutvar.hw.verilog import PREFIX, export_verilog
from lutvar.text import table

from .area import EXPORTING, MAX_LEVELS, WITH_LUTRAM
from .report import How, Measurement
from .synth import SynthesisError, SynthReport, count_luts_verilog

COMMAND = "python -m lutvar.bench.array"
_HOW: How = "synthesised (Yosys xcup)"
_MODULE = f"{PREFIX}array"
_PATIENCE = 7200.0  #: seconds for one synthesis
Form = Literal["table", "da"]


class TableRow(wiring.Component):
    """One row of form `table`: operand registers with their recoding, products, adders."""

    weights: Signal  #: in: recoded weight vector
    sum: Signal  #: out: dot product

    def __init__(self, weight: str, plain: str, dual: str | None) -> None:
        design = make_product(get_format(weight), get_format(plain), dual and get_format(dual))
        self.operand, self.dot = RowOperand(design), TableDot(design, GROUP)
        members = dict(self.operand.signature.members)
        del members["operand"]
        members["weights"] = self.dot.signature.members["weights"]
        members["sum"] = Out(self.dot.sum.shape())
        self.latency, self.fill = self.dot.latency, 1
        super().__init__(members)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.operand, m.submodules.dot = operand, dot = self.operand, self.dot
        for name in operand.signature.members:
            if name != "operand":
                m.d.comb += getattr(operand, name).eq(getattr(self, name))
        m.d.comb += [
            dot.activations.eq(operand.operand),
            dot.weights.eq(self.weights),
            self.sum.eq(dot.sum),
        ]
        return m


@dataclass(frozen=True)
class ArrayCase:
    """A form of the array for a pair of formats.

    Attributes:
        form: `table`, one row; or `da`, 16 rows, which share addresses.
        weight, plain, dual: formats by name; dual may be None.
        target: LUT sites of a lane after packing; None when there is no bound.
        engines: fill engines of a row, form `da`.
        quick: synthesised in a quick run too.
    """

    form: Form
    weight: str
    plain: str
    dual: str | None = None
    target: float | None = None
    engines: int = ENGINES
    quick: bool = False

    @property
    def title(self) -> str:
        """Name for tables."""
        formats = f"{self.weight} x {self.plain}" + (f" and {self.dual}" if self.dual else "")
        engines = "" if self.engines == ENGINES else f", {self.engines} fill engines"
        return f"array lane, {self.form}, {formats}{engines}"

    @property
    def rows(self) -> int:
        """Rows that share what is synthesised."""
        return 1 if self.form == "table" else ROW_GROUP

    def make(self) -> Any:
        """The component to synthesise."""
        if self.form == "table":
            return TableRow(self.weight, self.plain, self.dual)
        weight, plain = get_format(self.weight), get_format(self.plain)
        dual = get_format(self.dual) if self.dual else None
        return DaRows(DaDesign(weight, plain, dual, self.engines))


def cases() -> list[ArrayCase]:
    """Both forms in the formats of the presets, and integers in form `da` to compare with."""
    return [
        ArrayCase("table", "E2M1", "E2M1", quick=True),
        ArrayCase("table", "E2M1", "E2M1", "DUAL4"),
        ArrayCase("table", "E2M3", "E2M3"),
        ArrayCase("table", "E2M3", "E2M3", "DUAL6"),
        ArrayCase("da", "E2M1", "E2M1", target=11.5),
        ArrayCase("da", "E2M1", "E2M1", "DUAL4", target=11.5),
        ArrayCase("da", "E2M3", "E2M3", target=24),
        ArrayCase("da", "E2M3", "E2M3", "DUAL6", target=24),
        ArrayCase("da", "INT4", "INT4"),
        ArrayCase("da", "INT8", "INT8"),
    ]


def synthesise(case: ArrayCase) -> ArrayCost:
    """Measure one case. Raises ToolError without Yosys, SynthesisError when it fails."""
    with EXPORTING:
        unit = case.make()
        verilog = export_verilog(unit, _MODULE)
    report = count_luts_verilog(verilog, _MODULE, options=WITH_LUTRAM, timeout=_PATIENCE)
    return _cost(case, report, unit.latency, unit.fill)


def _cost(case: ArrayCase, report: SynthReport, latency: int, fill: int) -> ArrayCost:
    lanes = case.rows * GROUP
    return ArrayCost(
        form=case.form, weight=case.weight, plain=case.plain, dual=case.dual,
        engines=case.engines if case.form == "da" else 0, rows=case.rows,
        lut=round((report.luts_packed + report.lutram_sites) / lanes, 3),
        lut_mapped=round((report.luts + report.lutram_sites) / lanes, 3),
        lutram=round(report.lutram_sites / lanes, 3),
        ff=round(report.ffs / lanes, 3),
        levels=report.levels, latency=latency, fill=fill,
        tool=f"{report.tool}, {report.family}",
    )  # fmt: skip


def measure(case: ArrayCase) -> list[Measurement]:
    """Lines of `lutvar bench` for a case."""
    try:
        cost = synthesise(case)
    except SynthesisError as error:
        detail = {"error": str(error).partition("\n")[0]}
        return [Measurement(case.title, None, "LUT", _HOW, case.target, detail=detail)]
    figures: dict[str, Any] = {"mapped": cost.lut_mapped, "LUTRAM": cost.lutram, "FF": cost.ff}
    figures |= {"latency": cost.latency, "fill": cost.fill}
    histogram = {f"at {level}": count for level, count in cost.levels.items()}
    return [
        Measurement(case.title, cost.lut, "LUT", _HOW, case.target, detail=figures),
        Measurement(
            f"{case.title}: levels", cost.max_levels, "LUT", _HOW, MAX_LEVELS, detail=histogram
        ),
    ]


def save_costs(costs: Sequence[ArrayCost], path: Path = ARRAY_COSTS) -> None:
    """Write costs in the order of `cases`, others behind them."""
    order = [_key(case) for case in cases()]
    costs = sorted(costs, key=lambda c: order.index(_key(c)) if _key(c) in order else len(order))
    data = {
        "command": COMMAND,
        "unit": "LUT sites and flip-flops for each multiplier lane; synthesised, not placed",
        "costs": [asdict(cost) for cost in costs],
    }
    write_file(path, json_text(data, indent=1) + "\n")


def _cells(cost: ArrayCost) -> tuple[str, ...]:
    figures = (f"{value:.2f}" for value in (cost.lut, cost.lut_mapped, cost.lutram, cost.ff))
    return (
        cost.form, cost.weight, cost.plain + (f", {cost.dual}" if cost.dual else ""),
        *figures, str(cost.max_levels), str(cost.latency), str(cost.fill),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write; what the file has of cases that are not measured stays."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--only", default="", help="cases whose title contains this")
    parser.add_argument("--missing", action="store_true", help="cases that the file lacks")
    parser.add_argument("--show", action="store_true", help="print the file, measure nothing")
    options = parser.parse_args(arguments)
    costs = {_key(cost): cost for cost in load_array_costs()} if ARRAY_COSTS.exists() else {}
    selection = [] if options.show else [c for c in cases() if options.only in c.title]
    for case in selection:
        if options.missing and any(_key(cost) == _key(case) for cost in costs.values()):
            continue
        cost = synthesise(case)
        costs[_key(cost)] = cost
        save_costs(list(costs.values()))
    head = ("form", "weight", "activation", "LUT", "mapped", "LUTRAM", "FF", "levels", "latency",
            "fill")  # fmt: skip
    print(table(head, (_cells(cost) for cost in costs.values())))


def _key(cost: ArrayCase | ArrayCost) -> tuple[Any, ...]:
    engines = cost.engines if cost.form == "da" else 0
    return cost.form, cost.weight, cost.plain, cost.dual, engines


if __name__ == "__main__":
    main()
