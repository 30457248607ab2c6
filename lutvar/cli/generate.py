# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate`: one row of images from the float model, the golden model or the simulation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import (
    command,
    emit,
    hardware_option,
    json_option,
    model_option,
    note,
    out_option,
    progress,
    seed_option,
)

if TYPE_CHECKING:
    from torch import Tensor

    from lutvar.quant.var import LinearBackend, Var


@command("generate")
@model_option
@click.option(
    "--backend",
    type=click.Choice(["float", "golden", "sim"]),
    default="golden",
    help="float: unquantized; golden: quantized, code level; sim: the Verilog, simulated.",
)
@click.option(
    "--preset", metavar="CONFIG", help="Quantization preset. Default: the one of --hardware."
)
@hardware_option
@click.option(
    "--class",
    "labels",
    type=int,
    multiple=True,
    metavar="N",
    help="Class to draw; repeat for several. Default: every class once.",
)
@seed_option
@click.option("--cfg", type=float, help="Guidance. Default: the model's.")
@click.option("--zoom", type=click.IntRange(1, 64), default=12, help="Screen pixels per pixel.")
@out_option("PNG file.", "build/generate.png")
@json_option
def generate(
    model: str,
    backend: str,
    preset: str | None,
    hardware: str,
    labels: tuple[int, ...],
    seed: int,
    cfg: float | None,
    zoom: int,
    out: Path,
    as_json: bool,
) -> None:
    """Generate one image for each class given, next to each other in one PNG."""
    from lutvar.models import load_model
    from lutvar.quant.var import generate as run

    loaded = load_model(model)
    chosen = labels or tuple(range(len(loaded.info.classes)))
    if backend != "float":
        loaded.var.linear_backend = _backend(loaded.var, backend, preset, hardware)
    with progress(f"{backend}: scales") as update:
        result = run(
            loaded.var,
            loaded.vqvae,
            chosen,
            seed,
            loaded.info.cfg if cfg is None else cfg,
            loaded.info.top_k,
            loaded.info.top_p,
            progress=update,
        )
    _write_row(result.images_BCHW, zoom, out)
    tokens = [[int(t) for scale in result.tokens for t in scale[i]] for i in range(len(chosen))]
    emit(
        as_json,
        {"file": str(out), "backend": backend, "seed": seed, "classes": chosen, "tokens": tokens},
        f"{out}: classes {', '.join(map(str, chosen))}, backend {backend}, seed {seed}",
    )


def _backend(var: Var, backend: str, preset: str | None, hardware_name: str) -> LinearBackend:
    """The golden model, or the simulated accelerator with its driver."""
    from lutvar.contract.config import ConfigError, load_hardware, load_quant
    from lutvar.quant.golden import GoldenBackend
    from lutvar.quant.ptq import quantize_model

    hardware = load_hardware(hardware_name)
    quant = load_quant(preset or hardware.quant)
    if backend == "golden":
        return GoldenBackend(quantize_model(var, quant))
    if quant.name != load_quant(hardware.quant).name:
        raise ConfigError(
            f"preset {quant.name} does not run on {hardware.name}, which is built for "
            f"{hardware.quant}; choose another --hardware or leave --preset away"
        )
    from lutvar.demo.job import open_simulated

    note(f"building the simulation of {hardware.name} (kept in build/sim for the next time)")
    return open_simulated(var, hardware, quant)


def _write_row(images_BCHW: Tensor, zoom: int, path: Path) -> None:
    """Images in [0, 1] beside each other, every pixel a square of `zoom` screen pixels."""
    import numpy as np
    from PIL import Image

    pixels = (images_BCHW.clamp(0, 1) * 255).round().byte().permute(2, 0, 3, 1).numpy()
    height, count, width, channels = pixels.shape
    row = pixels.reshape(height, count * width, channels)
    row = np.repeat(np.repeat(row, zoom, axis=0), zoom, axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(row[..., 0] if channels == 1 else row).save(path, format="PNG")
