# SPDX-License-Identifier: Apache-2.0
"""Every `parallel_case` of a whole accelerator's Verilog is one.

Yosys writes a choice between several words as a case statement with this mark, which promises
synthesis that no two of its selects are 1 together. Here each module of the exported text is taken
alone, its registers, inputs and instances give any values whatever, and Yosys' SAT solver shows for
each such statement that the promise holds.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from lutvar.contract.accelerator import load_accelerator
from lutvar.environment import tool_environment
from lutvar.hw.accelerator.export import export

from .flow import ProofError, Verdict, engine_tools

ENGINE = "SAT (Yosys)"
_STATE = "dff dffe sdff sdffe sdffce mem mem_v2 memrd memrd_v2 memwr memwr_v2 meminit meminit_v2"
#: Puts an assertion where a choice was.
_EXCLUSIVE = """\
(* techmap_celltype = "$pmux" *)
module exclusive (A, B, S, Y);
  parameter WIDTH = 1;
  parameter S_WIDTH = 1;
  input [WIDTH-1:0] A;
  input [WIDTH*S_WIDTH-1:0] B;
  input [S_WIDTH-1:0] S;
  output [WIDTH-1:0] Y;
  wire [S_WIDTH-1:0] lowest = S & (~S + 1'b1);
  always @* assert (S == lowest);
  assign Y = A;
endmodule
"""
_PREPARE = f"""\
read_verilog -sv -formal exclusive.sv
design -stash exclusive
read_verilog dut.v
hierarchy -auto-top
proc -noopt
opt_clean
techmap -autoproc -map %exclusive t:$pmux
chformal -lower
delete {" ".join(f"t:${kind}" for kind in _STATE.split())}{" %u" * (len(_STATE.split()) - 1)}
opt_clean
write_rtlil selects.il
"""


def accelerator_verilog(name: str) -> str:
    """The text that `lutvar verilog NAME` writes."""
    config = load_accelerator(name)
    with tempfile.TemporaryDirectory(prefix="lutvar-formal-") as folder:
        return export(config, Path(folder)).verilog.read_text(encoding="utf-8")


def decide_selects(text: str, folder: Path, seconds: float) -> tuple[Verdict, int]:
    """Prove it for all modules of a text. Returns: the verdict, and how many statements there are.

    Raises:
        ToolError: Yosys is missing.
        ProofError: it failed.
    """
    (folder / "dut.v").write_text(text, encoding="utf-8")
    (folder / "exclusive.sv").write_text(_EXCLUSIVE, encoding="utf-8")
    try:
        _yosys(folder, "prepare", _PREPARE, seconds)
        counts: dict[str, int] = {}
        module = ""
        for line in (folder / "selects.il").read_text(encoding="utf-8").splitlines():
            if line.startswith("module "):
                module = line.split()[1].removeprefix("\\")
            elif re.match(r"\s*cell \$(assert|check) ", line):
                counts[module] = counts.get(module, 0) + 1
        if not counts:
            raise ProofError(f"no parallel_case was found ({folder / 'prepare.log'})")
        script = ["read_rtlil selects.il"]
        script += [f"sat -prove-asserts -ignore_unknown_cells {m}" for m in sorted(counts)]
        log = _yosys(folder, "sat", "\n".join(script) + "\n", seconds)
    except subprocess.TimeoutExpired:
        detail = f"not decided within {seconds:.0f} s"
        return Verdict("time-out", ENGINE, 0, detail=detail), 0
    proved = log.count("SAT proof finished - no model found: SUCCESS!")
    total = sum(counts.values())
    if proved == len(counts):
        return Verdict("proved", ENGINE, 0), total
    trace = folder / "sat.log"
    detail = f"{len(counts) - proved} of {len(counts)} modules have selects that are 1 together"
    return Verdict("broken", ENGINE, 1, trace, detail), total


def _yosys(folder: Path, name: str, script: str, seconds: float) -> str:
    yosys, _ = engine_tools()
    (folder / f"{name}.ys").write_text(script, encoding="utf-8")
    log = folder / f"{name}.log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [yosys, "-q", "-l", log.name, "-s", f"{name}.ys"],
        cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=seconds,
        check=False, env=tool_environment(),
    )  # fmt: skip
    if done.returncode:
        tail = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()][-1:]
        raise ProofError(f"Yosys failed: {' '.join(tail)} (all of it: {log})")
    return log.read_text(encoding="utf-8", errors="replace")
