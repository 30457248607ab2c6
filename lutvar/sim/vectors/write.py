# SPDX-License-Identifier: Apache-2.0
"""Writes a recorded case as files: Verilog, testbench, memory images, scripts for simulators."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lutvar
from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.files import json_text, make_folder, write_file
from lutvar.hw.accelerator.export import export

from .cases import CASES, record_case
from .recorder import Op, Recorder
from .testbench import testbench

_XSIM = """\
#!/bin/sh
# {what}
# Vivado's simulator: source settings64.sh first.
set -e
cd "$(dirname "$0")"
xvlog {define}accelerator.v testbench.v{glbl}
xelab -timescale 1ns/1ps -generic_top "SEED=${{SEED:-1}}" {libraries}testbench {tops}\\
  -snapshot lutvar_vectors
xsim lutvar_vectors -runall | tee xsim.log
grep -q '^PASS' xsim.log
"""
_ICARUS = """\
#!/bin/sh
# {what}
set -e
cd "$(dirname "$0")"
iverilog -g2005 -Ptestbench.SEED="${{SEED:-1}}" -s testbench -o icarus.vvp accelerator.v testbench.v
vvp -n icarus.vvp | tee icarus.log
grep -q '^PASS' icarus.log
"""
_VERILATOR = """\
#!/bin/sh
# {what}
set -e
cd "$(dirname "$0")"
verilator --binary -j 0 -Wno-fatal -Wno-lint -Wno-style --timing --top-module testbench \\
  -GSEED="${{SEED:-1}}" -CFLAGS -std=c++20 --output-split 20000 --output-split-cfuncs 2000 \\
  --Mdir verilated accelerator.v testbench.v > verilator-build.log 2>&1 \\
  || {{ tail -n 25 verilator-build.log >&2; exit 1; }}
./verilated/Vtestbench | tee verilator.log
grep -q '^PASS' verilator.log
"""


def export_vectors(config: AcceleratorConfig, case: str, folder: Path) -> dict[str, object]:
    """Write a case of an accelerator into a folder.

    Files: `accelerator.v`, `testbench.v`, `steps.hex` (what the driver does), `load<k>.hex` and
    `expect<k>.hex` (memory before and after program k; the first one is whole, the others hold
    what changes), `case.json`, and a script for each simulator.

    Returns:
        Contents of `case.json`.

    Raises:
        ConfigError: no such case.
    """
    recorder = record_case(case, config)
    make_folder(folder)
    manifest = export(config, folder)
    write_file(folder / "accelerator.v", manifest.verilog.read_bytes())
    manifest.verilog.unlink()
    write_file(folder / "testbench.v", testbench(case, config, recorder))
    steps = [*recorder.steps]
    lines = [f"{int(s.op):x}{s.offset:03x}{s.data & 0xFFFFFFFF:08x}" for s in steps]
    write_file(folder / "steps.hex", "\n".join([*lines, f"{int(Op.END):x}{0:011x}"]) + "\n")
    for k in range(len(recorder.loads)):
        write_file(folder / f"load{k}.hex", _load(recorder, k))
        write_file(folder / f"expect{k}.hex", _sparse(recorder.expects[k]))
    what = f"{CASES[case][0]}, on {config.name}"
    for name, text in _scripts(config, what).items():
        write_file(folder / name, text)
        (folder / name).chmod(0o755)
    data = {
        "format": "lutvar-vectors-1",
        "case": case,
        "what": what,
        "config": config.name,
        "lutvar": lutvar.__version__,
        "contract": f"{accelerator_hash(config):016x}",
        "verilog": manifest.sha256,
        "programs": len(recorder.loads),
        "memory_words": recorder.words,
        "words_written": sum(map(len, recorder.expects)),
    }
    write_file(folder / "case.json", json_text(data, indent=1) + "\n")
    return data


def _scripts(config: AcceleratorConfig, what: str) -> dict[str, str]:
    plain = {"define": "", "glbl": "", "libraries": "", "tops": ""}
    scripts = {
        "run_xsim.sh": _XSIM.format(what=what, **plain),
        "run_icarus.sh": _ICARUS.format(what=what),
        "run_verilator.sh": _VERILATOR.format(what=what),
    }
    if config.float32 == "dsp58":
        site = {
            "define": "-d LUTVAR_DSP58 ", "libraries": "-L unisims_ver ", "tops": "glbl ",
            "glbl": ' "$XILINX_VIVADO/data/verilog/src/glbl.v"',
        }  # fmt: skip
        text = f"{what}; with AMD's own model of DSPFP32 instead of lutvar's"
        scripts["run_xsim_dsp58.sh"] = _XSIM.format(what=text, **site)
    return scripts


def _load(recorder: Recorder, number: int) -> str:
    if number:
        return _sparse(recorder.loads[number])
    return "\n".join(_word(row.tobytes()) for row in recorder.first_load()) + "\n"


def _sparse(words: Mapping[int, bytes]) -> str:
    lines, before = [], -2
    for index, content in sorted(words.items()):
        if index != before + 1:
            lines.append(f"@{index:x}")
        lines.append(_word(content))
        before = index
    return "\n".join(lines) + "\n"


def _word(content: bytes) -> str:
    """64 bytes as $readmemh reads a word: the byte at the lowest address comes last."""
    return content[::-1].hex()
