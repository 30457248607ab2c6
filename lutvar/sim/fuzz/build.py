# SPDX-License-Identifier: Apache-2.0
"""The simulated device of a configuration, from the cache that `lutvar demo` fills too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.hw.accelerator.export import export
from lutvar.sim.verilator import build


def build_device(
    config: AcceleratorConfig,
    out: Path,
    say: Callable[[str], None] | None = None,
    *,
    build_dir: Path | str = "build/sim",
) -> Path:
    """Export the Verilog to a folder and build its model; path of the library.

    Raises:
        ToolError: Verilator or a compiler is missing.
        BuildError: a tool failed.
    """
    return build(export(config, out).verilog, build_dir=build_dir, progress=say)
