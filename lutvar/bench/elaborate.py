# SPDX-License-Identifier: Apache-2.0
"""Time and memory from a configuration to a checked netlist: export, lint, Yosys elaboration.

`python -m lutvar.bench.elaborate vck190-fp4` prints both as JSON. It runs as a separate
process, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lutvar.files import json_text

from .report import Measurement

MAX_SECONDS = 300
MAX_GB = 12


def run(config_name: str) -> dict[str, Any]:
    """Run every step once in this process.

    Returns seconds of each step, peak memory of this process and its largest child in GB, and what
    lint and Yosys object to.
    """
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.hw.accelerator.export import export
    from lutvar.sim.lint import check_yosys, lint_verilator

    seconds: dict[str, float] = {}
    problems: list[str] = []
    with tempfile.TemporaryDirectory(prefix="lutvar-elaborate-") as name:
        folder = Path(name)
        started = time.monotonic()
        config = load_accelerator(config_name)
        verilog = export(config, folder).verilog
        seconds["export s"] = time.monotonic() - started
        for step, check in (
            ("lint s", lambda: lint_verilator(verilog, config.module, folder)),
            ("Yosys s", lambda: check_yosys(verilog, config.module)),
        ):
            started = time.monotonic()
            problems += check()
            seconds[step] = time.monotonic() - started
    # ru_maxrss is in KiB on Linux.
    peaks = [resource.getrusage(who).ru_maxrss * 1024 / 1e9
             for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]  # fmt: skip
    return {"seconds": seconds, "gb": max(peaks), "problems": problems}


def elaboration(config_name: str) -> list[Measurement]:
    """Lines of `lutvar bench`: time and peak memory. Problems of the checks are an error."""
    what = f"{config_name}: export, lint, Yosys elaboration"
    done = subprocess.run(
        [sys.executable, "-m", "lutvar.bench.elaborate", config_name],
        capture_output=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    error = None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        error = lines[-1] if lines else f"ended with status {done.returncode}"
    else:
        figures = json.loads(done.stdout.splitlines()[-1])
        if figures["problems"]:
            error = figures["problems"][0]
    if error is not None:
        return [Measurement(what, None, "s", "timed", MAX_SECONDS, detail={"error": error})]
    seconds = figures["seconds"]
    return [
        Measurement(what, sum(seconds.values()), "s", "timed", MAX_SECONDS, detail=seconds),
        Measurement(f"{what}: peak memory", figures["gb"], "GB", "counted", MAX_GB),
    ]


if __name__ == "__main__":
    print(json_text(run(sys.argv[1])))
