# SPDX-License-Identifier: Apache-2.0
"""The accelerator's units, each synthesised on its own: area, memories and levels at once.

A synthesis takes minutes, so results are cached in the build folder under a hash of the unit's
Verilog and of how it was mapped; a unit that did not change is not mapped again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.hdl import DomainRenamer, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.costs import UnitCost
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import ADDRESS_BITS
from lutvar.files import json_text, make_folder, write_file
from lutvar.hw.axi.lite import AxiLite, AxiLiteSignature
from lutvar.hw.port_types import AxiLitePort
from lutvar.sim.tools import Tool

from .area import EXPORTING, MAX_LEVELS
from .report import How, Measurement
from .synth import SynthesisError, SynthReport, count_luts_verilog, synthesis_tool

#: Where figures of units are kept.
CACHE = Path("build/synth")
#: Changes when the flow or the counting does, so that older figures are not taken.
_FLOW = "shared modules once, 1"
#: Most LUT sites of a multiplier lane with scaling, accumulation, operands, fill and control.
LANE_TARGETS = {"fp4": 16.0, "fp6": 24.0}
_PATIENCE = 7200.0  #: seconds for one synthesis
_HOW: How = "synthesised (Yosys xcup)"


class ControlPort(wiring.Component):
    """The AXI4-Lite port with the registers, counters and monitors behind it."""

    axi: AxiLitePort  #: in: the port

    def __init__(self, config: AcceleratorConfig) -> None:
        from lutvar.hw.accelerator.control import Control

        self.control = Control(config)
        members = dict(self.control.signature.members)
        del members["bus"], members["bus_hold"]
        super().__init__({**members, "axi": In(AxiLiteSignature(ADDRESS_BITS))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.port = port = AxiLite(ADDRESS_BITS)
        m.submodules.control = control = self.control
        wiring.connect(m, wiring.flipped(self.axi), port.axi)
        wiring.connect(m, port.bus, control.bus)
        m.d.comb += port.hold.eq(control.bus_hold)
        for name, member in control.signature.members.items():
            if name in ("bus", "bus_hold"):
                continue
            inner, outer = getattr(control, name), getattr(self, name)
            m.d.comb += inner.eq(outer) if member.flow is In else outer.eq(inner)
        return m


@dataclass(frozen=True)
class UnitCase:
    """A unit of the accelerator.

    Attributes:
        title: for tables.
        make: builds it for a configuration.
        small: seconds to synthesise, not minutes.
        boxes: units in it that are synthesised on their own, and are not in its figures.
    """

    title: str
    make: Callable[[AcceleratorConfig], Any]
    small: bool = False
    boxes: tuple[str, ...] = ()


def _sequencer(config: AcceleratorConfig) -> Any:
    from lutvar.hw.sequencer.sequencer import Sequencer

    return Sequencer(config)


def _fetch(config: AcceleratorConfig) -> Any:
    from lutvar.hw.fetch.unit import FetchUnit

    return FetchUnit(config)


def _control(config: AcceleratorConfig) -> Any:
    return DomainRenamer({"bus": "sync"})(ControlPort(config))


def _front(config: AcceleratorConfig) -> Any:
    from lutvar.hw.front.unit import FrontUnit

    return FrontUnit(config)


def _post(config: AcceleratorConfig) -> Any:
    from lutvar.hw.post.unit import PostUnit

    return PostUnit(config)


def _attend(config: AcceleratorConfig) -> Any:
    from lutvar.hw.attend.unit import AttendUnit

    return AttendUnit(config)


def _matrix(config: AcceleratorConfig) -> Any:
    from lutvar.hw.matrix.unit import MatrixUnit

    return MatrixUnit(config)


def _row_group(config: AcceleratorConfig) -> Any:
    from lutvar.hw.matrix.row_group import RowGroup

    return RowGroup(config)


#: All units. `matrix` is what there is once, whatever the number of row groups is.
UNITS: dict[str, UnitCase] = {
    "sequencer": UnitCase("sequencer", _sequencer, small=True),
    "control": UnitCase("control port, registers, monitor", _control, small=True),
    "fetch": UnitCase("FETCH", _fetch, small=True),
    "front": UnitCase("FRONT", _front),
    "post": UnitCase("POST", _post),
    "attend": UnitCase("ATTEND", _attend),
    "matrix": UnitCase("MATRIX without its row groups", _matrix, boxes=("row_group",)),
    "row_group": UnitCase("row group", _row_group),
}


def unit_verilog(name: str, config: AcceleratorConfig) -> str:
    """The Verilog of a unit on its own, as it is mapped."""
    from lutvar.hw.verilog import PREFIX, export_verilog

    with EXPORTING:
        return export_verilog(UNITS[name].make(config), PREFIX + name)


def verilog_hash(name: str, config: AcceleratorConfig) -> str:
    """Which Verilog was mapped: a hash of it without the line that names the tool."""
    _, _, text = unit_verilog(name, config).partition("\n")
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def synthesise_unit(name: str, config: AcceleratorConfig, cache: Path = CACHE) -> UnitCost:
    """Area and levels of a unit, from the cache when its Verilog is the one that was mapped.

    Memories, DSPs and shift registers are mapped, unlike for comparisons of LUTs. A module that is
    used often is mapped once and joined afterwards: paths through its ports count whole.

    Raises ToolError without Yosys, SynthesisError when it fails.
    """
    from lutvar.hw.verilog import PREFIX

    tool = synthesis_tool()
    module, verilog = PREFIX + name, unit_verilog(name, config)
    return synthesise_verilog(name, module, verilog, tool, cache)


def synthesise_verilog(
    name: str, module: str, verilog: str, tool: Tool, cache: Path = CACHE
) -> UnitCost:
    """As `synthesise_unit`, for a unit's Verilog."""
    from lutvar.hw.verilog import PREFIX

    boxes = tuple(PREFIX + box for box in UNITS[name].boxes)
    text = "\0".join((_FLOW, *boxes, tool.found or "", verilog))
    key = hashlib.sha256(text.encode()).hexdigest()[:24]
    file = cache / f"{name}-{key}.json"
    if file.exists():
        return UnitCost.of(json.loads(file.read_text(encoding="utf-8")))
    started = time.monotonic()
    report = count_luts_verilog(
        verilog, module, options=(), timeout=_PATIENCE, flat=False, boxes=boxes
    )
    cost = _cost(report, time.monotonic() - started)
    make_folder(cache)
    write_file(file, json_text(cost.as_dict()) + "\n")
    return cost


def _cost(report: SynthReport, seconds: float) -> UnitCost:
    cells = report.cells
    return UnitCost(
        lut=report.luts_packed + report.lutram_sites,
        lut_unpacked=report.luts + report.lutram_sites,
        ff=report.ffs,
        dsp=report.dsps,
        bram36=cells.get("RAMB36E2", 0) + -(-cells.get("RAMB18E2", 0) // 2),
        uram=cells.get("URAM288", 0),
        levels=report.levels,
        seconds=round(seconds, 1),
        source=f"{report.tool}, {report.family}",
    )


def measure(name: str, config: AcceleratorConfig, cache: Path = CACHE) -> list[Measurement]:
    """Lines of `lutvar bench` for a unit: its longest path with the histogram, and its area."""
    title = f"{UNITS[name].title}, {config.name}"
    try:
        cost = synthesise_unit(name, config, cache)
    except SynthesisError as error:
        detail = {"error": str(error).partition("\n")[0]}
        return [Measurement(f"levels: {title}", None, "LUT", _HOW, MAX_LEVELS, detail=detail)]
    extra = [_lane(config, cost, cache)] if name == "row_group" else []
    histogram = {f"at {level}": count for level, count in cost.levels.items()}
    area = {"mapped": cost.lut_unpacked, "FF": cost.ff, "DSP": cost.dsp, "BRAM36": cost.bram36,
            "URAM": cost.uram, "synthesis s": cost.seconds}  # fmt: skip
    return [
        Measurement(f"levels: {title}", cost.max_levels, "LUT", _HOW, MAX_LEVELS, detail=histogram),
        Measurement(f"area: {title}", cost.lut, "LUT", _HOW, detail=area),
        *extra,
    ]


def _lane(config: AcceleratorConfig, group: UnitCost, cache: Path) -> Measurement:
    """LUT sites of the whole matrix unit for each multiplier lane."""
    title = f"MATRIX lane with everything, {config.name}"
    target = LANE_TARGETS.get(config.quant)
    try:
        first = synthesise_unit("matrix", config, cache)
    except SynthesisError as error:
        detail = {"error": str(error).partition("\n")[0]}
        return Measurement(title, None, "LUT", _HOW, target, detail=detail)
    total = first.lut + config.row_groups * group.lut
    value = round(total / (config.rows * GROUP), 2)
    return Measurement(title, value, "LUT", _HOW, target, detail={"unit": total})
