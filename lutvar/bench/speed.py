# SPDX-License-Identifier: Apache-2.0
"""Speed of the software: golden model, Verilog export, simulation build and simulation, memory."""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lutvar.contract.config import load_hardware, load_quant

from .report import Measurement

#: Where compiled simulations are kept; the same place as for the other commands.
CACHE = Path("build/sim")
#: Rows of the timed layer: enough row vectors to fill the array's row blocks.
_ROWS = 128


def golden_speed(preset: str = "fp4") -> list[Measurement]:
    """Image tokens per second of the golden model: one guided image for each class of `digits`."""
    from lutvar.models import load_model
    from lutvar.quant.golden import GoldenBackend
    from lutvar.quant.ptq import quantize_model
    from lutvar.quant.var import generate

    model = load_model("digits")
    quantized = quantize_model(model.var, load_quant(preset), progress=False)
    model.var.linear_backend = GoldenBackend(quantized)
    labels = range(len(model.info.classes))
    generate(model.var, model.vqvae, labels, 0)  # expands the weights, which stay
    started = time.monotonic()
    result = generate(model.var, model.vqvae, labels, 0)
    seconds = time.monotonic() - started
    tokens = sum(t.numel() for t in result.tokens)
    return [
        Measurement(
            f"golden model, {preset}",
            tokens / seconds,
            "tokens/s",
            "timed",
            detail={"images": len(labels), "tokens": tokens, "seconds": seconds},
        ),
        *_memory(f"golden model, {preset}", children=False),
    ]


def simulation_speed(
    hardware_name: str = "small-fp4", fresh: bool = True, seconds: float = 5.0
) -> list[Measurement]:
    """Export and build a core, then run one of the model's layers for some seconds.

    Args:
        hardware_name: accelerator size.
        fresh: build in an empty folder and report the time; otherwise use the cache.
        seconds: how long to simulate at least.
    """
    import numpy as np

    from lutvar.demo.job import Stages, prepare
    from lutvar.host.sim_transport import SimTransport
    from lutvar.models import load_model
    from lutvar.quant.ptq import quantize_model

    hardware = load_hardware(hardware_name)
    quant = load_quant(hardware.quant)
    quantized = quantize_model(load_model("digits").var, quant, progress=False)
    stages = Stages(lambda _line: None)
    with _folder(fresh) as folder, tempfile.TemporaryDirectory() as files:
        simulation = prepare(
            quantized, hardware, quant, Path(files), build_dir=folder, stages=stages
        )
        transport = simulation.device.transport
        assert isinstance(transport, SimTransport)
        with simulation.device as device:
            layer = simulation.packed["block0.fc1"]
            rows = np.random.default_rng(0).standard_normal((_ROWS, layer.args.in_features))
            device.run(layer, rows.astype(np.float32))
            before, first = device.counters(), transport.top.cycles
            started = time.monotonic()
            while time.monotonic() - started < seconds:
                device.run(layer, rows.astype(np.float32))
            elapsed = time.monotonic() - started
            cycles = transport.top.cycles - first
            used = device.counters().since(before)
        transport.close()
    made = [
        Measurement(f"export, {hardware_name}", stages.seconds["export the Verilog"], "s", "timed")
    ]
    if fresh:
        build = stages.seconds["build the simulation"]
        made.append(Measurement(f"simulation build, {hardware_name}", build, "s", "timed"))
    return [
        *made,
        Measurement(
            f"simulation, {hardware_name}",
            cycles / elapsed,
            "cycles/s",
            "timed",
            detail={"cycles": cycles, "seconds": elapsed, "layer": "block0.fc1", "rows": _ROWS},
        ),
        Measurement(
            f"array busy, {hardware_name}",
            100 * used.busy / used.cycles,
            "%",
            "simulated (Verilator)",
            detail={"layer": "block0.fc1", "rows": _ROWS},
        ),
        *_memory(f"whole bench so far, {hardware_name}", children=True),
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
