# SPDX-License-Identifier: Apache-2.0
"""Simulated accelerators for tests: one build of small-fp4, opened as often as needed."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.device import Device
from lutvar.host.transformer import DeviceTransformer, PassReport
from lutvar.hw.accelerator.export import Manifest, export
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.sites import LinearSite
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.run.comparing import ComparingTransformer, Comparison
from lutvar.sim.run.session import Quantized, quantize
from lutvar.sim.transport import SimulatedMemory

CONFIG = load_accelerator("small-fp4")
ROOT = Path(__file__).parents[3]
BUILD = ROOT / "build" / "sim"  #: shared with `lutvar demo`
MEMORY = 1 << 24
FAST = MemoryTiming((4, 12))


def exported(folder: Path, name: str = CONFIG.name) -> Manifest:
    """Verilog in a folder that several processes may share: the first one writes it."""
    verilog, manifest = folder / f"{name}.v", folder / f"{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not manifest.exists():
            return export(load_accelerator(name), folder)
    return Manifest(verilog, manifest, json.loads(manifest.read_text()))


@cache
def digits(config: str = CONFIG.name) -> Quantized:
    """The shipped model."""
    return quantize("digits", config)


@cache
def random_transformer(
    width: int = 256, depth: int = 2, terms: tuple[tuple[LinearSite, tuple[int, int]], ...] = ()
) -> QuantizedTransformer:
    """Random weights; two groups in a row, several tiles of outputs, a vocabulary with padding."""
    torch.manual_seed(1)
    config = VarConfig(
        depth=depth, width=width, heads=width // 64, patch_nums=(1, 2, 3), num_classes=3,
        vocab=200, z_channels=8,
    )  # fmt: skip
    var = Var(config)
    with torch.no_grad():
        for p in var.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return quantize_transformer(var, CONFIG.quant_config, progress=False, terms=dict(terms))


@cache
def packed(model: QuantizedTransformer) -> PackedTransformer:
    return pack_transformer(model, CONFIG)


@dataclass
class Rig:
    """A simulated accelerator with a model on it.

    Attributes:
        comparing: runs passes on both golden model and device; `comparison` has the outcome.
    """

    simulation: VerilatedDevice
    device: Device
    transformer: DeviceTransformer
    golden: GoldenTransformer
    comparing: ComparingTransformer
    comparison: Comparison
    reports: list[PassReport] = field(default_factory=list)

    def check(self) -> None:
        """Everything that ran was equal, bit by bit, and kept the rules of AXI."""
        assert self.comparison.total and not self.comparison.mismatches, self.comparison.first[:3]
        assert not self.simulation.violations


@contextmanager
def open_rig(
    verilog: Path,
    model: QuantizedTransformer,
    *,
    slots: int = 2,
    timing: MemoryTiming = FAST,
    watchdog: int = 200_000,
) -> Iterator[Rig]:
    """Open a model on a new simulation (built once, then cached)."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test processes need not build the same
        simulation = VerilatedDevice.from_verilog(verilog, MEMORY, build_dir=BUILD, timing=timing)
    reports: list[PassReport] = []
    with simulation:
        device = Device(SimulatedMemory(simulation), CONFIG, watchdog=watchdog)
        device.open()
        transformer = DeviceTransformer(
            device, packed(model), slots, check=True, on_pass=reports.append
        )
        golden, comparison = GoldenTransformer(model), Comparison()
        comparing = ComparingTransformer(golden, transformer, comparison)
        yield Rig(simulation, device, transformer, golden, comparing, comparison, reports)


def image_step(
    rng: np.random.Generator, slot: int, label: int, position: int, tokens: int, **more: Any
) -> ImageStep:
    """A step with random embeddings; `guided`, `guidance` and `width` may be given."""
    width = more.get("width", 256)
    x = [rng.standard_normal((tokens, width)).astype(np.float32) for _ in range(2)]
    if not more.get("guided", True):
        return ImageStep(slot, label, position, x[0], None)
    return ImageStep(slot, label, position, x[0], x[1], more.get("guidance", 0.5))


def same(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> bool:
    """Equal to the last bit."""
    return len(a) == len(b) and all(
        np.array_equal(x.view(np.uint32), y.view(np.uint32)) for x, y in zip(a, b, strict=True)
    )
