# SPDX-License-Identifier: Apache-2.0
"""What quantized arithmetic costs in software: fake-quantized and code-level, against float32."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from .report import Measurement

RECIPE = "fpqvar-fp4-no-galt"  # needs no data
MODEL = "cifar10"
IMAGES = 10
REPEATS = 3
MAX_FAKE = 2.5  #: times the float32 model
MAX_GOLDEN = 6.0
_THREADS = 2


def forward_speed() -> list[Measurement]:
    """Seconds to generate some guided images: float32, fake-quantized, golden model.

    All three sample and decode alike. One run before the timed ones fills what is cached; of those
    the median counts.
    """
    from lutvar.quant.golden.transformer import GoldenTransformer
    from lutvar.quant.methods import load_recipe, quantize_var
    from lutvar.quant.methods.hardware.export import export
    from lutvar.quant.models import load_model
    from lutvar.quant.var import generate
    from lutvar.quant.var.passes import generate_passes

    loaded = load_model(MODEL)
    var, vqvae, info = loaded.var, loaded.vqvae, loaded.info
    labels = [k % len(info.classes) for k in range(IMAGES)]
    sampling = (info.cfg, info.top_k, info.top_p)
    before = torch.get_num_threads()
    torch.set_num_threads(_THREADS)
    try:
        plain = _seconds(lambda: generate(var, vqvae, labels, labels, *sampling))
        quantized = quantize_var(var, load_recipe(RECIPE))
        with quantized.installed(var):
            fake = _seconds(lambda: generate(var, vqvae, labels, labels, *sampling))
        golden_model = GoldenTransformer(export(quantized, var))
        golden = _seconds(
            lambda: generate_passes(var, vqvae, golden_model, labels, labels, *sampling)
        )
    finally:
        torch.set_num_threads(before)
    return [
        Measurement(
            f"{MODEL}, {RECIPE}: {what}", seconds / plain, "of float32's time", "timed", limit,
            detail={"images": IMAGES, "seconds": seconds, "float32 s": plain},
        )
        for what, seconds, limit in (
            ("fake-quantized", fake, MAX_FAKE), ("golden model", golden, MAX_GOLDEN),
        )
    ]  # fmt: skip


def _seconds(run: Callable[[], object]) -> float:
    """Median wall-clock time of some runs after a first one."""
    times = []
    for _ in range(1 + REPEATS):
        started = time.monotonic()
        run()
        times.append(time.monotonic() - started)
    return statistics.median(times[1:])
