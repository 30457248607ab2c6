# SPDX-License-Identifier: Apache-2.0
"""What `lutvar generate` does with RAR and PAR models, which no accelerator runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutvar.contract.labels import Label, resolve_classes
from lutvar.text import class_name

from .backends import Backend
from .common import emit, given, progress, refuse_with
from .image_row import write_row
from .sampling import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from lutvar.quant.models.generator import LoadedGenerator

#: Larger images are drawn one screen pixel to a pixel, unless --zoom says otherwise.
_SMALL = 64


def is_token_model(model: str) -> bool:
    """Whether --model names a RAR or PAR model."""
    from lutvar.quant.models.generator import is_generator

    return is_generator(model)


def generate(
    how: Backend,
    sampling: Sampling,
    labels: Sequence[Label],
    seed: int,
    zoom: int,
    names: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Generate one image for each class; arguments are those of the command.

    Raises:
        ModelError: a backend was asked for that computes as the accelerator does.
        UsageError: an option that has no use here.
    """
    from lutvar.quant.generators.accelerator import refusal
    from lutvar.quant.models.generator import load_generator
    from lutvar.quant.models.model import ModelError

    model, recipe = how.model, how.recipe
    if isinstance(recipe, str):
        raise click.UsageError(
            f"--quantized {recipe}: for {model} it has to be a file; `lutvar quantize` makes it"
        )
    loaded = load_generator(model)
    if (given("backend") and how.backend != "float") or given("device"):
        raise ModelError(refusal(model, loaded.model.config))
    refuse_with(
        f"a {loaded.model.family} model", packed="--image", decoder="--decoder",
        stagger="--stagger", config="--config", smooth="--smooth",
    )  # fmt: skip
    wanted = labels or range(min(len(loaded.classes), 10))
    null = len(loaded.classes)
    seeds = [seed + i for i in range(len(wanted))]
    classes = [-1 if c == null else c for c in resolve_classes(wanted, seeds, null)]
    slots = how.slots or len(classes)
    pixels, tokens = _draw(loaded, recipe, classes, seed, sampling, slots)
    if not given("zoom") and loaded.tokenizer.config.image_size > _SMALL:
        zoom = 1
    above = [class_name(loaded.classes, label) for label in classes]
    write_row(pixels.numpy(), zoom, above if names else None, out)
    data = {"file": str(out), "backend": "float" if recipe is None else "quantized", "seed": seed,
            "classes": classes, "tokens": tokens}  # fmt: skip
    text = f"{out}: classes {', '.join(map(str, classes))}, {data['backend']}, seed {seed}"
    emit(as_json, data, text)


def _draw(
    loaded: LoadedGenerator,
    recipe: Path | None,
    classes: Sequence[int],
    seed: int,
    given_sampling: Sampling,
    slots: int,
) -> tuple[Tensor, list[list[int]]]:
    """Images [B, C, H, W] in [0, 1] and the tokens of each row by row; image i has seed + i."""
    from contextlib import nullcontext
    from dataclasses import replace

    import torch

    from lutvar.quant.generators import generate_tokens, rows_of_image
    from lutvar.quant.methods import QuantizedVar

    asked = {name: getattr(given_sampling, name) for name in ("cfg", "top_k", "top_p")}
    changes = {name: value for name, value in asked.items() if value is not None}
    sampling = replace(loaded.sampling, **changes)
    parts, net = [], loaded.model
    lent = nullcontext(net) if recipe is None else QuantizedVar.load(recipe, net).installed(net)
    with lent, progress("float: passes" if recipe is None else "quantized: passes") as update:
        for start in range(0, len(classes), slots):
            some = classes[start : start + slots]
            seeds = [seed + start + i for i in range(len(some))]
            result = generate_tokens(net, some, seeds, sampling, update)
            parts.append(rows_of_image(net, result.tokens_BT))
    tokens = torch.cat(parts)
    images = torch.cat([loaded.tokenizer.decode(row) for row in tokens.split(1)])
    return images, tokens.tolist()
