# SPDX-License-Identifier: Apache-2.0
"""Speed and memory of a recipe on a large model: RTN, Hadamard and dual format on a d16-size one.

The model has random weights and lies in a float32 file that is memory-mapped. Making the file
and quantizing it run in separate processes, so that the peak is that of quantizing alone.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lutvar.files import json_text, write_file

from .report import Measurement

RECIPE = "fpqvar-fp4-no-galt"
SIZE = "d16"
MAX_SECONDS = 60.0
MAX_MEMORY = 1.3  #: times the float32 file
_THREADS = 2


def quantize_speed() -> list[Measurement]:
    """Seconds to quantize a model of an official size, and peak memory against its file."""
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder) / "var.safetensors", Path(folder) / "quantized.safetensors"
        environment = {**os.environ, "OMP_NUM_THREADS": str(_THREADS)}
        for arguments in (["make", str(model), SIZE], ["quantize", str(model), RECIPE, str(out)]):
            done = subprocess.run(
                [sys.executable, "-m", "lutvar.bench.methods", *arguments],
                env=environment, capture_output=True, encoding="utf-8", errors="replace",
            )  # fmt: skip
            if done.returncode:
                detail = {"error": (done.stderr.splitlines() or ["no message"])[-1]}
                return [Measurement(f"{RECIPE}, {SIZE}", None, "s", "timed", detail=detail)]
        figures = json.loads(done.stdout)
        figures["file MB"] = model.stat().st_size / 1e6
        figures["result MB"] = out.stat().st_size / 1e6
    seconds, peak = figures.pop("seconds"), figures.pop("peak MB")
    return [
        Measurement(
            f"quantize {SIZE}, {RECIPE}", seconds, "s", "timed", MAX_SECONDS, detail=figures
        ),
        Measurement(
            f"quantize {SIZE}, {RECIPE}: peak memory", peak / figures["file MB"],
            "of the FP32 file", "counted", MAX_MEMORY, detail={"peak MB": peak},
        ),
    ]  # fmt: skip


def make(path: Path, size: str) -> None:
    """Write a transformer of an official size with random weights in float32, one at a time."""
    import torch

    from lutvar.quant.var import Var, VarConfig
    from lutvar.quant.var.model import derived_buffers
    from lutvar.quant.var.state_files import METADATA
    from lutvar.quant.var.tensors import float_pieces
    from lutvar.quant.var.unfilled import unfilled

    config = VarConfig.official(size)
    with unfilled():
        model = Var(config)
    skip, draw = derived_buffers(config), torch.Generator().manual_seed(0)
    shapes = {
        key: tuple(value.shape) for key, value in model.state_dict().items() if key not in skip
    }
    write_file(
        path,
        float_pieces(
            shapes,
            lambda key: torch.randn(shapes[key], generator=draw).mul_(0.02),
            {METADATA: json_text({"var": config.to_dict()}, sort_keys=True)},
        ),
    )


def quantize(path: Path, recipe: str, out: Path) -> dict[str, float]:
    """Load, quantize, write; seconds and peak memory of this process."""
    import torch

    from lutvar.quant.methods import load_recipe
    from lutvar.quant.methods.resumable import quantize_to_file
    from lutvar.quant.var import load_var

    torch.set_num_threads(_THREADS)
    started = time.monotonic()
    with torch.no_grad():
        quantize_to_file(load_var(path), None, load_recipe(recipe), out)
    seconds = time.monotonic() - started
    # ru_maxrss is in KiB on Linux.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"seconds": seconds, "peak MB": peak, "processor s": time.process_time()}


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), sys.argv[3])
    else:
        print(json_text(quantize(Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))))
