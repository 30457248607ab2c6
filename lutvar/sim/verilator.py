# SPDX-License-Identifier: Apache-2.0
"""Build an exported core into a shared library: Verilator, then the C++ compiler, cached."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lutvar.environment import cores, spaceless_folder, tool_environment

from .tools import VERILATOR_HINT, Tool, ToolError, verilator

WRAPPER = Path(__file__).with_name("device.cpp")
LIBRARY = "liblutvar.so"
#: Flags that decide what the model does and how fast it is; part of the cache key.
VERILATOR_FLAGS = (
    "-O3",
    "--x-assign",
    "fast",
    "--x-initial",
    "fast",
    "--noassert",
    "--output-split",
    "20000",
    "--output-split-cfuncs",
    "2000",
    "-Wno-fatal",
    "-Wno-lint",
    "-Wno-style",
)
FAST_FLAGS = "-O1"  #: model code
SLOW_FLAGS = "-O0"  #: constructors and initial values: run once


class BuildError(RuntimeError):
    """The model could not be built; the message ends with the tail of the log."""


def _key(verilog: bytes, tool: Tool, wrapper: Path, more: Sequence[str]) -> str:
    digest = hashlib.sha256(verilog)
    for flag in (
        tool.found or "",
        FAST_FLAGS,
        SLOW_FLAGS,
        *VERILATOR_FLAGS,
        *more,
    ):
        digest.update(b"\0" + flag.encode())
    for part in (wrapper, *_headers(wrapper)):
        digest.update(b"\0" + part.read_bytes())
    return digest.hexdigest()[:20]


def _headers(wrapper: Path) -> list[Path]:
    """The headers beside a wrapper that it may include."""
    return sorted(wrapper.parent.glob("*.hpp"))


def _run(command: list[str], folder: Path, tool: Tool, log: Path) -> None:
    environment = tool_environment(tool.environment)
    with log.open("ab") as output:
        output.write(os.fsencode("$ " + " ".join(command) + "\n"))
        output.flush()
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-25:])
        raise BuildError(
            f"{command[0]} ended with status {done.returncode}; the log is {log}. Its end:\n{tail}"
        )


def first_module(verilog: Path) -> str:
    """Name of the first module of a Verilog file. Raises BuildError when there is none."""
    with verilog.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if match := re.match(r"\s*module\s+(\w+)", line):
                return match[1]
    raise BuildError(f"{verilog} has no module; write it with: lutvar verilog CONFIG -o DIR")


def _install(work: Path, folder: Path) -> None:
    """Move a finished build into the cache, unless another process was faster."""
    staged = Path(tempfile.mkdtemp(prefix="partial-", dir=folder.parent))
    try:
        shutil.copytree(work, staged, dirs_exist_ok=True)  # perhaps from another file system
        try:
            staged.replace(folder)
        except OSError:
            if (folder / LIBRARY).exists():
                return
            # Remains of an earlier build, after a cleaner of old files.
            shutil.rmtree(folder, ignore_errors=True)
            staged.replace(folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def build(
    verilog: Path | str,
    *,
    top: str | None = None,
    wrapper: Path = WRAPPER,
    build_dir: Path | str = "build/sim",
    jobs: int | None = None,
    more: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Build the model of an exported core, or find it in the cache.

    Args:
        verilog: self-contained Verilog file with the module `top`.
        top: name of the module; default: the file's first one, which is the top of an export.
        wrapper: C++ that drives it.
        build_dir: cache; each model has a folder named after the hash of its sources.
        jobs: compilers in parallel; default: one for each CPU, at most 8.
        more: further arguments for Verilator.
        progress: called with a line of text for each step.

    Returns:
        Path of the shared library, for `lutvar.sim.device.VerilatedDevice`.

    Raises:
        ToolError: Verilator or a compiler is missing.
        BuildError: a tool failed.
    """
    say = progress or (lambda _line: None)
    source = Path(verilog)
    top = top or first_module(source)
    root = Path(build_dir).absolute()
    tool = verilator(root).require(VERILATOR_HINT)
    content = source.read_bytes()
    folder = root / _key(content, tool, wrapper, more)
    library = folder / LIBRARY
    if library.exists():
        say(f"simulation model: cached in {folder}")
        return library
    assert tool.path is not None
    root.mkdir(parents=True, exist_ok=True)
    jobs = jobs or min(8, cores())
    started = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="partial-", dir=spaceless_folder(root)))
    try:
        # Copied, because make cannot handle every character of the caller's path.
        (work / "top.v").write_bytes(content)
        (work / "wrapper.cpp").write_bytes(wrapper.read_bytes())
        for header in _headers(wrapper):
            (work / header.name).write_bytes(header.read_bytes())
        log = work / "build.log"
        say(f"simulation model: verilator {tool.found}")
        _run(
            [
                tool.path, "--cc", "--exe", *VERILATOR_FLAGS, *more, "--prefix", "Vtop",
                "--top-module", top, "--Mdir", "model", "-o", f"../{LIBRARY}",
                "-CFLAGS", "-std=c++17 -fPIC -fvisibility=hidden -I..",
                "-LDFLAGS", "-shared",
                "top.v", "wrapper.cpp",
            ],
            work, tool, log,
        )  # fmt: skip
        verilated = time.monotonic()
        files = len(list((work / "model").glob("*.cpp")))
        say(f"simulation model: compiling {files} C++ files with {jobs} jobs")
        _run(
            [
                "make", "-C", "model", "-f", "Vtop.mk", f"-j{jobs}", f"OPT_FAST={FAST_FLAGS}",
                f"OPT_SLOW={SLOW_FLAGS}", "OPT_GLOBAL=-O0", "VM_PARALLEL_BUILDS=1",
            ],
            work, tool, log,
        )  # fmt: skip
        shutil.rmtree(work / "model")
        _install(work, folder)
    except BuildError as error:
        failed = root / f"failed-{folder.name}"
        shutil.rmtree(failed, ignore_errors=True)
        shutil.copytree(work, failed, dirs_exist_ok=True)
        raise BuildError(str(error).replace(str(work), str(failed))) from None
    finally:
        shutil.rmtree(work, ignore_errors=True)
    ended = time.monotonic()
    say(
        f"simulation model: built in {ended - started:.1f} s "
        f"(Verilator {verilated - started:.1f} s, C++ {ended - verilated:.1f} s)"
    )
    return library


__all__ = ["BuildError", "ToolError", "build"]
