# SPDX-License-Identifier: Apache-2.0
"""`lutvar quality`: what each quantized part costs a model."""

from __future__ import annotations

from dataclasses import asdict

import click

from lutvar.text import table

from .common import (
    command,
    emit,
    given,
    json_option,
    model_option,
    presets_option,
    progress,
    refuse_with,
    seed_option,
)


@command("quality")
@model_option
@presets_option
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    metavar="NAME|FILE",
    help="With a RAR or PAR model, which has no presets: recipe; repeat for several. "
    "(`lutvar eval` measures recipes on VAR models.)",
)
@click.option("--images", default=500, type=click.IntRange(1), help="Images to judge.")
@click.option(
    "--teacher", default=100, type=click.IntRange(1), help="Images whose logits are compared."
)
@seed_option
@json_option
def quality(
    model: str,
    presets: tuple[str, ...],
    recipes: tuple[str, ...],
    images: int,
    teacher: int,
    seed: int,
    as_json: bool,
) -> None:
    """Compare the device's arithmetic, part by part, with the unquantized model.

    Logits are compared under teacher forcing on samples of the float model; images of the same
    classes and seeds are judged by the model's classifier.
    """
    from lutvar.contract.quant_preset import load_quant
    from lutvar.quant.models import load_model
    from lutvar.quant.models.generator import is_generator

    if is_generator(model):
        if given("presets"):
            load_model(model)  # says what the accelerator lacks
        if not recipes:
            raise click.UsageError(
                f"model {model} is compared with its recipes; name them with --recipe, for "
                "example --recipe ptq4arvg-rar-w6a6 (lutvar list recipes)"
            )
        _recipes(model, recipes, images, teacher, seed, as_json)
        return
    refuse_with("a VAR model", recipes="--recipe")
    for preset in presets:
        load_quant(preset)  # first: a wrong name must not wait for torch
    from lutvar.quant.eval.quality import measure

    loaded = load_model(model)
    with progress("variants") as update:
        rows = measure(loaded, list(presets), images, teacher, seed, update)
    head = ("preset", "computed as the device", "KL, nat", "top-1", "logits", "judged", "tokens")
    text = table(
        head,
        [
            (
                r.preset, r.name, f"{r.kl_nats:.4f}", f"{r.agreement:.1%}", f"{r.error:.1%}",
                f"{r.requested:.1%}", f"{r.same_tokens:.1%}",
            )
            for r in rows
        ],
    )  # fmt: skip
    emit(as_json, [asdict(r) for r in rows], text)


def _recipes(
    model: str, recipes: tuple[str, ...], images: int, teacher: int, seed: int, as_json: bool
) -> None:
    """Rows of a RAR or PAR model; digits are judged by the classifier of model `digits`."""
    from lutvar.quant.eval.tokens import measure_recipes
    from lutvar.quant.models import load_model
    from lutvar.quant.models.generator import load_generator

    loaded = load_generator(model)
    size = loaded.tokenizer.config
    digits = (size.in_channels, size.image_size, len(loaded.classes)) == (1, 8, 10)
    judge = load_model("digits").classifier() if digits else None
    with progress("recipes") as update:
        rows = measure_recipes(loaded, recipes, images, teacher, seed, judge, update)
    head = ("recipe", "KL, nat", "top-1", "tokens", "judged")
    lines = [
        (
            r.recipe, f"{r.kl_nats:.4f}", f"{r.top1:.1%}", f"{r.same_tokens:.1%}",
            "" if r.judged is None else f"{r.judged:.1%}",
        )
        for r in rows
    ]  # fmt: skip
    emit(as_json, [asdict(r) for r in rows], table(head, lines))
