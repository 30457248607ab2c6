# SPDX-License-Identifier: Apache-2.0
"""Runs the Vivado scripts in a plain Tcl shell."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lutvar.vivado.params import main, tcl_word
from support.tcl import SCRIPTS

Shell = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Run a script with arguments on the stand-in for Vivado; keywords go to its array `stub`."""
    tclsh = shutil.which("tclsh")
    if tclsh is None:
        pytest.skip("tclsh is not installed; the Tcl scripts cannot be executed here")

    def run(script: str, *argv: object, **stub: object) -> subprocess.CompletedProcess[str]:
        settings = {
            "version": "2025.1", "slack": 0.1, "pulse": 0.2, "route_errors": 0,
            "hertz": 199_998_001, "late": 0, "act_mhz": "", "status": "", "noc_mc": 2,
            "stubborn": "", "window": 1, "exclude": 1, "relaxed": "no",
            "images": "lutvar_system_wrapper.pdi", "handoff": 1, "integrity": "",
            "runs": tmp_path / "runs", **stub,
        }  # fmt: skip
        lines = [f"set stub({key}) {{{value}}}" for key, value in settings.items()]
        lines += [
            f"source {{{Path(__file__).with_name('vivado.tcl')}}}",
            f"set argv [list {' '.join(tcl_word(str(a)) for a in argv)}]",
            f"source {{{SCRIPTS / script}}}",
        ]
        program = tmp_path / "run.tcl"
        program.write_text("\n".join(lines) + "\n")
        return subprocess.run([tclsh, str(program)], capture_output=True, text=True, timeout=30)

    return run


@pytest.fixture(scope="session")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `lutvar verilog vck190-fp4` writes it: the real ports around an empty module."""
    import hashlib
    import json
    from typing import Any

    from amaranth.hdl import Module
    from amaranth.lib import wiring
    from amaranth.lib.wiring import In

    from lutvar.contract.accelerator import load_accelerator
    from lutvar.contract.identity import accelerator_hash
    from lutvar.hw.accelerator.top import TOP_NAME, Accelerator, _members
    from lutvar.hw.verilog import export_verilog, with_prefix

    config = load_accelerator("vck190-fp4")

    class Ports(Accelerator):
        def __init__(self) -> None:
            members = {"ap_clk": In(1), "ap_rst_n": In(1), **_members(config)}
            wiring.Component.__init__(self, members)

        def elaborate(self, platform: Any) -> Module:
            return Module()

    top = Ports()
    ports = top.port_map()
    text = with_prefix(export_verilog(top, TOP_NAME, ports=ports), config.module_prefix)
    folder = tmp_path_factory.mktemp("verilog")
    (folder / "vck190-fp4.v").write_text(text)
    manifest = {
        "config_hash": f"{accelerator_hash(config):016x}",
        "verilog": {"sha256": hashlib.sha256(text.encode()).hexdigest()},
        "ports": [[name, len(s), way.name.lower()] for name, (s, way) in ports.items()],
    }
    (folder / "vck190-fp4.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def prepared(export: Path, tmp_path: Path) -> Path:
    """What params.py writes for that export."""
    out = tmp_path / "vivado"
    assert main(["vck190-fp4", "-v", str(export), "-o", str(out)]) == 0
    return out
