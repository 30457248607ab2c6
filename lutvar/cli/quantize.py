# SPDX-License-Identifier: Apache-2.0
"""`lutvar quantize`: a model's linear layers as FP4 or FP6 codes, in one file."""

from __future__ import annotations

from pathlib import Path

import click

from .common import command, emit, json_option, model_option, out_option


@command("quantize")
@model_option
@click.option(
    "--preset", default="fp4", metavar="CONFIG", help="A shipped preset, or a .yaml file."
)
@out_option("File to write (safetensors).")
@json_option
def quantize(model: str, preset: str, out: Path, as_json: bool) -> None:
    """Quantize the weights of a model and write codes, scales and biases to FILE."""
    from lutvar.contract.config import load_quant

    config = load_quant(preset)  # first: a wrong name must not wait for torch
    from lutvar.models import load_model
    from lutvar.quant.ptq import quantize_model

    quantized = quantize_model(load_model(model).var, config)
    out.parent.mkdir(parents=True, exist_ok=True)
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
