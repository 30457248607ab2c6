# SPDX-License-Identifier: Apache-2.0
"""`lutvar quantize`: a model's linear layers by a preset or a recipe, into one kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutvar.files import prepare_output
from lutvar.text import table

from .common import SEED, command, emit, json_option, model_option, note, out_option, progress

if TYPE_CHECKING:
    from lutvar.quant.generators import Sampling
    from lutvar.quant.methods.generator import Model
    from lutvar.quant.models import ModelInfo
    from lutvar.quant.var import Vqvae


@command("quantize")
@model_option
@click.option(
    "--preset", metavar="NAME|FILE", help="A shipped preset, or a .yaml file. Default: fp4."
)
@click.option("--recipe", metavar="NAME|FILE", help="A shipped recipe, or a .yaml file.")
@click.option(
    "--outliers",
    type=SEED,
    metavar="SEED",
    help="Before the recipe, make 1 % of the hidden channels 4 to 64 times as wide and the columns "
    "of fc2 as much smaller: the same function with outliers like a large model's.",
)
@click.option("--jobs", type=click.IntRange(1), default=1, help="Processes of a recipe.")
@out_option("File to write (safetensors).", endings=(".safetensors",))
@json_option
def quantize(
    model: str,
    preset: str | None,
    recipe: str | None,
    outliers: int | None,
    jobs: int,
    out: Path,
    as_json: bool,
) -> None:
    """Quantize a model and write the result to FILE.

    --preset rounds to nearest in the formats of an accelerator, --recipe runs a quantization
    method, also on a RAR or PAR model. `demo`, `generate`, `eval` and `pack` read either file.
    Interrupt it at any time; the same command continues where it stopped.
    """
    if recipe is not None and preset is not None:
        raise click.UsageError("--preset and --recipe exclude each other; give one")
    if outliers is not None and recipe is None:
        raise click.UsageError("--outliers comes before the steps of a recipe; give --recipe")
    from lutvar.contract.quant_preset import load_quant

    config = load_quant(preset or "fp4")  # a wrong name fails at once
    from lutvar.quant.methods import load_recipe, preset_recipe
    from lutvar.quant.methods.resumable import quantize_to_file
    from lutvar.quant.models import load_model
    from lutvar.quant.models.generator import is_generator, load_generator

    plan = load_recipe(recipe) if recipe is not None else preset_recipe(config)
    if outliers is not None:
        plan = plan.with_outliers(outliers)
    prepare_output(out)
    net: Model
    vqvae: Vqvae | None
    sampling: Sampling | ModelInfo
    if recipe is not None and is_generator(model):
        generator, classifier = load_generator(model), None
        net, vqvae, sampling = generator.model, None, generator.sampling
    else:
        loaded = load_model(model)
        net, vqvae, sampling = loaded.var, loaded.vqvae, loaded.info
        classifier = loaded.classifier
    try:
        with progress(f"{plan.name}: blocks") as update:
            report = quantize_to_file(
                net, vqvae, plan, out,
                sampling=(sampling.cfg, sampling.top_k, sampling.top_p), progress=update,
                model=model,
                jobs=jobs,
                classifier=classifier,
            )  # fmt: skip
    except KeyboardInterrupt:
        note(f"finished blocks are kept in {out}.parts; the same command continues from there")
        raise
    coverage = plan.coverage()
    size = out.stat().st_size
    data = {"file": str(out), "bytes": size, "coverage": coverage, "hardware": report.as_dict()}
    rows = [(linear, bits) for linear, bits in coverage.items()]
    emit(
        as_json,
        data,
        f"{table(('linear', 'bits'), rows)}\n{report.text()}\n{out}: {plan.name}, {size:,} bytes",
    )
