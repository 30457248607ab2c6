# SPDX-License-Identifier: Apache-2.0
"""The cycle model against the simulated Verilog: pairs of model and accelerator.

The constants of the model (`lutvar.host.compile.costs`) are those that the units document and their
tests measure; none is fitted to the runs here. Values do not change what a pass takes, so models
with random weights and embeddings do as well as trained ones; their results are compared with the
golden model all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.costs import CostModel, unit_times
from lutvar.host.transformer import PassReport
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.quant.var import Var, VarConfig
from lutvar.sim.device import MemoryTiming
from lutvar.sim.model.simulate import simulate

from .comparing import ComparingTransformer, Comparison
from .document import Table
from .session import Session, quantize, silent
from .studies import Say


@dataclass(frozen=True)
class Pair:
    """A model on an accelerator: all scales of some images, one pass for each scale.

    Attributes:
        model: "digits", or (width, depth, patch_nums) of a model with random weights.
        config: accelerator by name.
        images: images in each pass.
        changes: fields of the accelerator that are not those of that name, its name among them.
    """

    model: str | tuple[int, int, tuple[int, ...]]
    config: str
    images: int = 1
    changes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def accelerator(self) -> AcceleratorConfig:
        """The configuration."""
        named = load_accelerator(self.config)
        return AcceleratorConfig.model_validate({**named.model_dump(), **self.changes})

    @property
    def name(self) -> str:
        """Model, configuration and images in one line."""
        model = self.model
        if not isinstance(model, str):
            width, depth, patches = model
            model = f"width {width}, {depth} blocks, {len(patches)} scales to {patches[-1]}²"
        config = self.changes.get("name", self.config)
        return f"{model}; {config}; {self.images} image{'s' if self.images > 1 else ''}"


#: Every burst takes as long: what a transfer of several bursts waits for is the slowest of them,
#: and the model has one latency.
TIMING = MemoryTiming((50, 50))
PAIRS = (
    Pair("digits", "small-fp4"),
    Pair("digits", "small-fp4", 4),
    Pair("digits", "small-sections-fp4"),
    Pair("digits", "small-sections-fp4", 4),
    Pair("digits", "small-fp6", 2),
    Pair("digits", "small-da-fp4", 2),
    Pair("digits", "small-dsp-fp4", 2),
    Pair((384, 3, (1, 2, 3, 4, 6)), "small-fp4", 2),
    Pair((384, 3, (1, 2, 3, 4, 6)), "small-sections-fp4", 2),
    Pair((256, 2, (1, 2, 4, 8)), "small-da-fp4", 2),
    # As on the VCK190: beats of 6 bits come slower than four sections take them, tables are filled.
    Pair(
        (384, 3, (1, 2, 3, 4, 6)), "small-sections-fp4", 2,
        {"name": "small-sections-da-fp6", "quant": "fp6", "dot": "da", "rows": 64,
         "weight_ports": 4, "max_sections": 4},
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Agreement:
    """Cycles of all passes, simulated and modelled; values that differ from the golden model."""

    pair: Pair
    simulated: int
    modelled: int
    mismatches: int

    @property
    def error(self) -> float:
        """Relative error of the model; positive when it predicts too many cycles."""
        return self.modelled / self.simulated - 1


def _transformer(pair: Pair, config: AcceleratorConfig) -> QuantizedTransformer:
    if isinstance(pair.model, str):
        return quantize(pair.model, config).transformer
    width, depth, patches = pair.model
    torch.manual_seed(width + depth)
    var = Var(
        VarConfig(depth=depth, width=width, heads=width // 64, patch_nums=patches, num_classes=10,
                  vocab=256, z_channels=8)
    )  # fmt: skip
    return quantize_transformer(var, config.quant_config, config.kv_format, progress=False)


def _steps(pair: Pair, transformer: QuantizedTransformer, scale: int) -> list[ImageStep]:
    shape = transformer.shape
    rng = np.random.default_rng(scale)
    tokens, position = shape.scale_tokens[scale], sum(shape.scale_tokens[:scale])

    def embeddings() -> np.ndarray:
        return rng.standard_normal((tokens, shape.width)).astype(np.float32)

    return [
        ImageStep(i, i % 10, position, embeddings(), embeddings(), 0.5) for i in range(pair.images)
    ]


@dataclass(frozen=True)
class _Runnable:
    transformer: QuantizedTransformer
    config: AcceleratorConfig


def run_pair(pair: Pair, out: Path) -> Agreement:
    """Simulate a pair and model the same programs, both with the memory latency of `TIMING`."""
    config = pair.accelerator()
    transformer = _transformer(pair, config)
    comparison = Comparison()
    reports: list[PassReport] = []
    with Session(
        _Runnable(transformer, config), out / config.name, slots=pair.images,
        timing=TIMING, on_pass=reports.append,
    ) as session:  # fmt: skip
        device = ComparingTransformer(
            GoldenTransformer(transformer), session.transformer, comparison
        )
        for scale in range(len(transformer.shape.scale_tokens)):
            device.run(_steps(pair, transformer, scale))
    costs = CostModel(config, replace(unit_times(config), memory=TIMING.latency[0]))
    return Agreement(
        pair,
        sum(r.counters.cycles for r in reports),
        sum(simulate(r.compiled.program, costs).cycles for r in reports),
        comparison.mismatches,
    )


def run_agreement(out: Path, say: Say = silent) -> list[Agreement]:
    """All pairs; each accelerator is built once."""
    results = []
    for pair in PAIRS:
        results.append(run_pair(pair, out))
        say(f"{pair.name}: {results[-1].simulated:,} cycles, model {results[-1].error:+.1%}")
    return results


def agreement_table(results: Sequence[Agreement]) -> Table:
    """The cycle model against the simulation."""
    return Table(
        ["model; accelerator; images", "simulated cycles", "modelled cycles", "difference",
         "values that differ"],
        [
            [r.pair.name, f"{r.simulated:,}", f"{r.modelled:,}", f"{100 * r.error:+.1f} %",
             str(r.mismatches)]
            for r in results
        ],
    )  # fmt: skip
