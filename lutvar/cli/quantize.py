# SPDX-License-Identifier: Apache-2.0
"""`lutvar quantize`: a model's linear layers by a preset or a recipe, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from lutvar.files import prepare_output
from lutvar.text import table

from .common import command, emit, json_option, model_option, note, out_option, progress


@command("quantize")
@model_option
@click.option("--preset", metavar="CONFIG", help="A shipped preset, or a .yaml file. Default: fp4.")
@click.option("--recipe", metavar="RECIPE", help="A shipped recipe, or a .yaml file.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes of a recipe.")
@out_option("File to write (safetensors).")
@json_option
def quantize(
    model: str, preset: str | None, recipe: str | None, jobs: int, out: Path, as_json: bool
) -> None:
    """Quantize a model and write the result to FILE.

    With --preset: codes, scales and biases of the block linears, as the accelerator reads them.
    With --recipe: the layers that a quantization method makes. A run that is broken off goes on
    where it was when it is started again.
    """
    if recipe is not None and preset is not None:
        raise click.UsageError("--preset and --recipe exclude each other; give one")
    prepare_output(out)
    if recipe is None:
        _by_preset(model, preset or "fp4", out, as_json)
    else:
        _by_recipe(model, recipe, jobs, out, as_json)


def _by_preset(model: str, preset: str, out: Path, as_json: bool) -> None:
    from lutvar.contract.quant_preset import load_quant

    config = load_quant(preset)  # first: a wrong name must not wait for torch
    from lutvar.quant.models import load_model
    from lutvar.quant.ptq import quantize_model

    quantized = quantize_model(load_model(model).var, config)
    quantized.save(out)
    layers = list(quantized.layers.values())
    weights = quantized.weights
    scales = sum(layer.scales.size for layer in layers)
    bits = (weights * config.code_bits + scales * 16) / weights
    data = {
        "file": str(out),
        "bytes": out.stat().st_size,
        "preset": config.name,
        "layers": len(layers),
        "weights": weights,
        "bits_per_weight": bits,
    }
    emit(
        as_json,
        data,
        f"{out}: {len(layers)} layers, {weights:,} weights as {config.weight} "
        f"({bits:.3f} bits a weight with scales), {data['bytes']:,} bytes",
    )


def _by_recipe(model: str, name: str, jobs: int, out: Path, as_json: bool) -> None:
    from lutvar.quant.methods import load_recipe
    from lutvar.quant.methods.resumable import quantize_to_file
    from lutvar.quant.models import load_model

    recipe = load_recipe(name)
    loaded = load_model(model)
    info = loaded.info
    try:
        with progress(f"{recipe.name}: blocks") as update:
            report = quantize_to_file(
                loaded.var, loaded.vqvae, recipe, out,
                sampling=(info.cfg, info.top_k, info.top_p), progress=update, model=model,
                jobs=jobs,
            )  # fmt: skip
    except KeyboardInterrupt:
        note(f"finished blocks are kept in {out}.parts; the same command goes on from there")
        raise
    coverage = recipe.coverage()
    size = out.stat().st_size
    data = {"file": str(out), "bytes": size, "coverage": coverage, "hardware": report.as_dict()}
    rows = [(linear, bits) for linear, bits in coverage.items()]
    emit(
        as_json,
        data,
        f"{table(('linear', 'bits'), rows)}\n{report.text()}\n{out}: {recipe.name}, {size:,} bytes",
    )
