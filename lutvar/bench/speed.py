# SPDX-License-Identifier: Apache-2.0
"""Speed of the software: golden model, Verilog export, simulation build and simulation, memory."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lutvar.contract.quant_preset import load_quant

from .report import Measurement

#: Where compiled simulations are kept; the same place as for the other commands.
CACHE = Path("build/sim")
PRESET, CONFIG = "fp4", "small-fp4"
MAX_SECONDS = 300  #: for a whole image of the shipped model in simulation


def golden_speed() -> list[Measurement]:
    """Image tokens a second of the golden model: one guided image for each class of `digits`."""
    from lutvar.quant.golden.transformer import GoldenTransformer
    from lutvar.quant.models import load_model
    from lutvar.quant.ptq.transformer import quantize_transformer
    from lutvar.quant.var.passes import generate_passes

    model = load_model("digits")
    golden = GoldenTransformer(quantize_transformer(model.var, load_quant(PRESET), progress=False))
    labels = range(len(model.info.classes))

    def generate() -> int:
        result = generate_passes(model.var, model.vqvae, golden, labels, [0] * len(labels))
        return sum(t.numel() for t in result.tokens)

    generate()  # expands the weights, which stay
    started = time.monotonic()
    tokens = generate()
    seconds = time.monotonic() - started
    return [
        Measurement(
            f"golden model, {PRESET}",
            tokens / seconds,
            "tokens/s",
            "timed",
            detail={"images": len(labels), "tokens": tokens, "seconds": seconds},
        ),
        *_memory(f"golden model, {PRESET}", children=False),
    ]


def simulation_speed(fresh: bool = True) -> list[Measurement]:
    """Export and build an accelerator, then generate one image of `digits` on it.

    Args:
        fresh: build in an empty folder and report the time; otherwise use the cache.
    """
    from lutvar.host.transformer import PassReport
    from lutvar.quant.var.passes import generate_passes
    from lutvar.sim.run.measure import figures, total
    from lutvar.sim.run.session import Session, Stages, quantize

    quantized = quantize("digits", CONFIG)
    stages = Stages()
    reports: list[PassReport] = []
    with (
        _folder(fresh) as folder,
        tempfile.TemporaryDirectory() as files,
        Session(
            quantized, Path(files), build_dir=folder, on_pass=reports.append, stages=stages
        ) as session,
    ):
        info, loaded = quantized.loaded.info, quantized.loaded
        started = time.monotonic()
        generate_passes(
            loaded.var, loaded.vqvae, session.transformer, [0], [0], info.cfg, info.top_k,
            info.top_p,
        )  # fmt: skip
        whole = time.monotonic() - started
    shape = quantized.transformer.shape
    whole_run = total("image", [figures(str(i), r, shape) for i, r in enumerate(reports)])
    measurements = [
        Measurement(f"export, {CONFIG}", stages.seconds["export Verilog"], "s", "timed")
    ]
    if fresh:
        build = stages.seconds["build the simulation"]
        measurements.append(Measurement(f"simulation build, {CONFIG}", build, "s", "timed"))
    detail = {"cycles": whole_run.cycles, "seconds": whole_run.device_seconds, "images": 1}
    return [
        *measurements,
        Measurement(
            f"simulation, {CONFIG}",
            whole_run.cycles / whole_run.device_seconds,
            "cycles/s",
            "timed",
            detail=detail,
        ),
        Measurement(f"simulation of a whole image, {CONFIG}", whole, "s", "timed", MAX_SECONDS),
        Measurement(
            f"one image alone, {CONFIG}",
            whole_run.cycles,
            "cycles",
            "simulated (Verilator)",
            detail=detail,
        ),
        Measurement(
            f"array busy, one image alone, {CONFIG}",
            100 * whole_run.utilisation,
            "%",
            "simulated (Verilator)",
            detail=detail,
        ),
        *_memory(f"whole bench so far, {CONFIG}", children=True),
    ]


@contextmanager
def _folder(fresh: bool) -> Iterator[Path]:
    """An empty folder that goes away, or the cache."""
    if not fresh:
        yield CACHE
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _memory(what: str, children: bool) -> list[Measurement]:
    """Peak resident memory of this process, and of its largest child that has ended."""
    scopes = {f"peak memory, {what}": resource.RUSAGE_SELF}
    if children:
        scopes[f"peak memory of a child process, {what}"] = resource.RUSAGE_CHILDREN
    return [
        # ru_maxrss is in KiB on Linux.
        Measurement(name, resource.getrusage(scope).ru_maxrss / 1024, "MiB", "counted")
        for name, scope in scopes.items()
    ]
