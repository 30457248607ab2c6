# SPDX-License-Identifier: Apache-2.0
"""Runs an arithmetic unit of the Verilog with mutants alone, in Icarus Verilog.

A rounding fault of one unit in float32 hardly ever reaches memory where four or six bits are left
of the result. The unit's own tests see it, and so do these.
"""

from __future__ import annotations

import re
import subprocess
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lutvar.files import write_file
from lutvar.sim.tools import icarus

from .mutants import SELECT, SELECT_BITS
from .stimuli import CASES, COUNT, UnitCase

_SETTLE = 64  #: cycles before the first set of inputs
_LIMIT = 120.0  #: seconds


def _ports(verilog: str, module: str) -> dict[str, tuple[str, int]]:
    """Direction and bits of a module's ports."""
    start = verilog.index(f"\nmodule {module}(")
    text = verilog[start : verilog.index("\nendmodule", start)]
    ports = {}
    for line in re.finditer(r"^  (input|output) (?:\[(\d+):0\] )?(\\\S+ |\w+);$", text, re.M):
        ports[line[3].strip().lstrip("\\")] = (line[1], int(line[2] or 0) + 1)
    return ports


def case_of(verilog: str, module: str) -> tuple[UnitCase, dict[str, tuple[str, int]]]:
    """The case of a unit in a Verilog text, with the names of its ports; its ports.

    Raises ValueError when the unit lacks one.
    """
    short = module.split("__", 1)[1]
    ports = _ports(verilog, module)
    case = CASES[_ending(short)](np.random.default_rng(zlib.crc32(short.encode())))
    name, values = case.output
    case = replace(
        case, inputs={_named(k, ports, "input"): v for k, v in case.inputs.items()},
        output=(_named(name, ports, "output"), values),
    )  # fmt: skip
    unknown = {*case.inputs, case.output[0]} - set(ports)
    if unknown:
        raise ValueError(f"{module} has no port {', '.join(sorted(unknown))}")
    return case, ports


class UnitBench:
    """One unit with its inputs and expected outputs; raises ToolError without Icarus.

    Args:
        verilog: file with mutants.
        module: full name in it.
        folder: for the compiled simulation.
    """

    def __init__(self, verilog: Path, module: str, folder: Path) -> None:
        tool = icarus().require("Install it with: sudo apt-get install iverilog.")
        assert tool.path is not None
        folder.mkdir(parents=True, exist_ok=True)
        short = module.split("__", 1)[1]
        self._program = folder / f"{short}.vvp"
        self.case, ports = case_of(verilog.read_text(encoding="utf-8"), module)
        bench, stimuli = folder / f"{short}.v", folder / f"{short}.hex"
        write_file(stimuli, _stimuli(self.case, ports))
        write_file(bench, _bench(module, ports, self.case, stimuli))
        subprocess.run(
            [tool.path, "-g2005", "-s", "lutvar_bench", "-o", self._program, verilog, bench],
            check=True, capture_output=True,
        )  # fmt: skip

    def run(self, number: int) -> str:
        """The first wrong output of a mutant, "" if there is none."""
        vvp = Path(icarus().path or "").with_name("vvp")
        done = subprocess.run(
            [str(vvp), "-n", str(self._program), f"+{SELECT}={number}"],
            capture_output=True, encoding="utf-8", timeout=_LIMIT, check=True,
        )  # fmt: skip
        lines = done.stdout.split()[_SETTLE + self.case.latency :]
        name, expected = self.case.output
        for at, (line, value) in enumerate(zip(lines, expected.tolist(), strict=True)):
            if "x" in line or int(line, 16) != value:
                inputs = {k: hex(int(v[at])) for k, v in self.case.inputs.items()}
                return f"{name} of {inputs} is {line}, {value:x} is right"
        return ""


def _named(name: str, ports: Mapping[str, tuple[str, int]], way: str) -> str:
    """The port of a name, or the only input or output of "31 bits"."""
    if match := re.fullmatch(r"(\d+) bits", name):
        found = [n for n, port in ports.items() if port == (way, int(match[1]))
                 and not n.endswith(("clk", "rst", "reset_leaf"))]  # fmt: skip
        return found[0] if len(found) == 1 else name
    return name


def _stimuli(case: UnitCase, ports: Mapping[str, tuple[str, int]]) -> str:
    """A line of hexadecimal digits for each cycle: all inputs, the first one lowest."""
    total = _SETTLE + COUNT + case.latency
    columns = []
    for name, values in case.inputs.items():
        column = [0] * total
        at = _SETTLE + case.lag.get(name, 0)
        end = min(total, at + COUNT)
        column[at:end] = [int(v) for v in values[: end - at]]
        columns.append((column, ports[name][1]))
    lines = []
    for row in range(total):
        word, low = 0, 0
        for column, bits in columns:
            word |= (column[row] & (1 << bits) - 1) << low
            low += bits
        lines.append(f"{word:x}")
    return "\n".join(lines) + "\n"


def _bench(module: str, ports: Mapping[str, tuple[str, int]], case: UnitCase, stimuli: Path) -> str:
    total = _SETTLE + COUNT + case.latency
    pins, low = [f".{SELECT}({SELECT})", ".clk(clk)"], 0
    for name in case.inputs:
        bits = ports[name][1]
        pins.append(f".\\{name} (word[{low + bits - 1}:{low}])")
        low += bits
    idle = [n for n, (way, _) in ports.items() if way == "input" and n not in case.inputs]
    pins += [f".\\{name} (1'b0)" for name in idle if name not in ("clk", SELECT)]
    out, bits = case.output[0], ports[case.output[0]][1]
    return f"""module lutvar_bench;
  reg [{SELECT_BITS - 1}:0] {SELECT};
  reg clk = 0;
  reg [{low - 1}:0] words [0:{total - 1}];
  reg [{low - 1}:0] word;
  wire [{bits - 1}:0] result;
  integer i;
  {module} dut({", ".join([*pins, f".{_escaped(out)}(result)"])});
  initial begin
    if (!$value$plusargs("{SELECT}=%d", {SELECT})) {SELECT} = 0;
    $readmemh("{stimuli}", words);
    for (i = 0; i < {total}; i = i + 1) begin
      word = words[i];
      #1 $display("%h", result);
      clk = 1; #1 clk = 0;
    end
  end
endmodule
"""


def _escaped(name: str) -> str:
    return name if re.fullmatch(r"\w+", name) else f"\\{name} "


class Units:
    """The benches of all units that mutants are in.

    Raises ValueError when an original computes something else than its case says.
    """

    def __init__(self, verilog: Path, folder: Path, modules: Mapping[int, str]) -> None:
        """modules: number of a mutant -> its module."""
        self._units = {number: unit_of(module) for number, module in modules.items()}
        self._benches: dict[str, UnitBench] = {}
        for unit in sorted(set(self._units.values()) - {""}):
            self._benches[unit] = bench = UnitBench(verilog, unit, folder)
            if what := bench.run(0):
                raise ValueError(f"the original of {unit}: {what}")

    def run(self, number: int) -> str:
        """The first wrong output of the unit that a mutant is in; "" for one without a bench."""
        unit = self._units.get(number)
        try:
            return self._benches[unit].run(number) if unit else ""
        except subprocess.TimeoutExpired:
            return "no end"


#: Modules without state but pipelines: what they do wrong, programs see or their unit alone.
_ARITHMETIC = re.compile(
    r"fp(16|32)|_lane(?!s)|multiply_add|from_half|rows_|_dot|(score|value|weight)_row|partial_sums|reciprocal|rsqrt"
    r"|__(maxima|scales|product|root|kappa|convert|squares|recoder|recode_\w+|hadamard)$"
)


def is_arithmetic(module: str) -> bool:
    """A module has values in it, and nothing that says what comes when."""
    return _ARITHMETIC.search(module) is not None


def _ending(short: str) -> str:
    """The case of a module that several units have."""
    return next((name for name in CASES if short.endswith(f"__{name}")), short)


def unit_of(module: str) -> str:
    """The unit with a case that a module is or is part of, "" if there is none."""
    prefix, _, short = module.partition("__")
    if _ending(short) != short:
        return module
    found = [name for name in CASES if short == name or short.startswith(f"{name}__")]
    return f"{prefix}__{max(found, key=len)}" if found else ""
