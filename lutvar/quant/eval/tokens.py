# SPDX-License-Identifier: Apache-2.0
"""What a recipe costs a RAR or PAR model: divergence of its logits, tokens, judged images.

As for VAR (`eval.forced`, docs/evaluation.md): the float model draws samples, both models see the
same tokens, and the logits of the conditional half are compared. The quantized model runs pass by
pass with a cache, so that static ranges and a quantized cache take part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lutvar.quant.generators import TokenModel, generate_tokens, rows_of_image
from lutvar.quant.methods import QuantizedVar, load_recipe, prepare_calibration, quantize_var
from lutvar.quant.methods.generator import generator_of
from lutvar.quant.models.classifier import agreement
from lutvar.quant.models.generator import LoadedGenerator
from lutvar.quant.models.judge import Judge

_BATCH = 50


@dataclass(frozen=True)
class TokenRow:
    """Figures of one recipe against the float model.

    Attributes:
        recipe: its name; "float" is the model itself.
        kl_nats: mean KL divergence of a token's distribution under given tokens.
        top1: share of tokens whose most likely value stays.
        same_tokens: share of generated tokens that are those of the float model with this seed.
        judged: share of generated images that the judge gives their class, or None without one.
    """

    recipe: str
    kl_nats: float
    top1: float
    same_tokens: float
    judged: float | None


@torch.no_grad()
def measure_recipes(
    loaded: LoadedGenerator,
    recipes: Sequence[str],
    images: int,
    teacher: int,
    seed: int,
    judge: Judge | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[TokenRow]:
    """A row for the float model and one for each recipe.

    Args:
        loaded: the model.
        recipes: names or files.
        images: generated images, classes in turn.
        teacher: images whose logits are compared.
        seed: of the first image; the others follow.
        judge: a classifier of the images.
        progress: called as progress(rows done, rows).

    Raises:
        RecipeError, CalibrationError: a recipe that the model cannot take.
    """
    model, sampling = loaded.model, loaded.sampling
    classes = model.config.num_classes
    labels_N = torch.arange(images) % classes
    given_B = torch.arange(teacher) % classes
    given_BT = generate_tokens(model, given_B, seed + images, sampling).tokens_BT
    right = _forced(model, given_B, given_BT)
    plain = _draw(model, labels_N, seed, loaded)
    rows = [_row("float", right, right, plain, plain, loaded, labels_N, judge)]
    for done, name in enumerate(recipes):
        if progress is not None:
            progress(done, len(recipes))
        recipe = load_recipe(name)
        samples = None
        if recipe.needs_data:
            guidance = sampling.cfg, sampling.top_k, sampling.top_p
            samples = prepare_calibration(model, None, recipe.calibration, *guidance)
        quantized: QuantizedVar = quantize_var(model, recipe, samples)
        with quantized.installed(model) as lent:
            forced, drawn = _forced(lent, given_B, given_BT), _draw(lent, labels_N, seed, loaded)
        rows.append(_row(recipe.name, right, forced, plain, drawn, loaded, labels_N, judge))
    return rows


def _forced(model: TokenModel, labels_B: Tensor, tokens_BT: Tensor) -> Tensor:
    """Logits [B, T, V] under given tokens."""
    return torch.cat(generator_of(model).replay(labels_B, tokens_BT), 1)[:, model.lead :]


def _draw(model: TokenModel, labels_N: Tensor, seed: int, loaded: LoadedGenerator) -> Tensor:
    """Tokens [N, T] in the order in which they are drawn; each image has its own seed."""
    parts = []
    for start in range(0, len(labels_N), _BATCH):
        part = labels_N[start : start + _BATCH]
        seeds = [seed + start + i for i in range(len(part))]
        parts.append(generate_tokens(model, part, seeds, loaded.sampling).tokens_BT)
    return torch.cat(parts)


def _row(
    name: str,
    right: Tensor,
    forced: Tensor,
    plain: Tensor,
    drawn: Tensor,
    loaded: LoadedGenerator,
    labels_N: Tensor,
    judge: Judge | None,
) -> TokenRow:
    before, after = right.log_softmax(-1), forced.log_softmax(-1)
    kl = float((before.exp() * (before - after)).sum(-1).mean())
    judged = None
    if judge is not None:
        images = loaded.tokenizer.decode(rows_of_image(loaded.model, drawn))
        judged = agreement(judge, images, labels_N)
    return TokenRow(
        name, max(kl, 0.0), float((right.argmax(-1) == forced.argmax(-1)).float().mean()),
        float((plain == drawn).float().mean()), judged,
    )  # fmt: skip
