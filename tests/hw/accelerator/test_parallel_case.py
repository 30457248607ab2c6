# SPDX-License-Identifier: Apache-2.0
"""`parallel_case` in the exported Verilog is true: no two selects are ever high together."""

import re
import subprocess
from pathlib import Path

import pytest

from lutvar.environment import tool_environment
from lutvar.hw.accelerator.top import TOP_NAME, Accelerator
from lutvar.hw.verilog import export_verilog
from lutvar.sim.runner import tiny_accelerator
from lutvar.sim.tools import yosys

_FUNCTION = re.compile(
    r"^  function \[\d+:0\] (\S+);\n(?:    input .*\n)*    input \[(\d+):0\] s;\n"
    r"    \(\* parallel_case \*\)\n    casez",
    flags=re.MULTILINE,
)


def with_overlap(module: str) -> tuple[str, int]:
    """A module with a wire `overlap`: two selects of one of its multiplexers are high.

    Returns:
        Its text, and how many multiplexers it has.
    """
    wires = []
    for name, high in _FUNCTION.findall(module):
        calls = re.findall(
            rf"^  assign .* = {re.escape(name)}\(.*, (\{{[^{{}}]*\}})\);$", module, re.M
        )
        assert len(calls) == 1, f"{name} is called {len(calls)} times"
        wires.append(f"  wire [{high}:0] selects_{len(wires)} = {calls[0]};\n")
    terms = [f"|(selects_{k} & (selects_{k} - 1'b1))" for k in range(len(wires))]
    extra = "".join(wires) + f"  wire overlap = {' || '.join(terms)};\n"
    return module.removesuffix("endmodule\n") + extra + "endmodule\n", len(wires)


def prove(modules: list[str], folder: Path) -> str:
    """Let Yosys prove that `overlap` is 0 in each module, for any registers, inputs and parts.

    Returns:
        Its messages; the last line says whether all proofs succeeded.
    """
    tool = yosys().require("It proves that cases exclude each other.")
    (folder / "cases.v").write_text("".join(modules))
    names = re.findall(r"^module (\w+)", "".join(modules), flags=re.MULTILINE)
    assert len(names) == len(modules)
    proofs = "".join(
        f"sat -ignore_unknown_cells -prove overlap 0 -verify {name}\n" for name in names
    )
    (folder / "cases.ys").write_text(
        f"read_verilog cases.v\nproc -noopt\nsetattr -set keep 1 w:overlap\nopt_clean\n{proofs}"
        "log all proved\n"
    )
    done = subprocess.run(
        [str(tool.path), "-q", "-s", "cases.ys"], cwd=folder, capture_output=True, text=True,
        check=False, env=tool_environment(),
    )  # fmt: skip
    return "proved" if not done.returncode else (done.stdout + done.stderr)[-800:]


@pytest.mark.yosys
def test_selects_exclude_each_other(tmp_path: Path) -> None:
    top = Accelerator(tiny_accelerator())
    text = export_verilog(top, TOP_NAME, top.port_map())
    modules = re.findall(r"^module .*?^endmodule\n", text, re.M | re.S)
    found = [with_overlap(module) for module in modules if "parallel_case" in module]
    assert sum(count for _, count in found) == text.count("parallel_case") > 40
    assert prove([module for module, _ in found], tmp_path) == "proved"


@pytest.mark.yosys
def test_selects_that_overlap_are_found(tmp_path: Path) -> None:
    module = """module lutvar_wrong(input clk, input [3:0] x, output reg y);
  function [0:0] f;
    input [0:0] a;
    input [1:0] b;
    input [1:0] s;
    (* parallel_case *)
    casez (s)
      2'b?1:
        f = b[0:0];
      2'b1?:
        f = b[1:1];
      default:
        f = a;
    endcase
  endfunction
  wire z, p = x == 4'd3, q = SECOND;
  assign z = f(1'b0, x[1:0], { q, p });
  always @(posedge clk) y <= z;
endmodule
"""
    for second, right in (("x == 4'd5", True), ("x[1]", False)):
        text, count = with_overlap(module.replace("SECOND", second))
        assert count == 1
        assert (prove([text], tmp_path) == "proved") is right
