# SPDX-License-Identifier: Apache-2.0
"""One training run of a RAR model: codebook, transformer, report, and the folder that holds them.

The samples are judged by the classifier of the shipped model `digits`, so none is trained.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.files import json_text, make_folder, prepare_output, write_file
from lutvar.quant.eval.frechet import frechet_distance
from lutvar.quant.generators import generate_tokens, load_transformer, save_transformer
from lutvar.quant.models import FORMAT, load_model
from lutvar.quant.models.classifier import agreement
from lutvar.quant.models.generator import TOKENIZER_FILE, WEIGHTS, LoadedGenerator, load_generator
from lutvar.quant.models.judge import features_in_parts
from lutvar.quant.models.model import sha256_of
from lutvar.quant.var.state_files import METADATA
from lutvar.quant.var.tensors import tensor_bytes

from .data import ImageSet, load_digits
from .loop import StageRun, run_stage, seed_step
from .report import draw_sheet
from .tokens import DIGITS_RAR, TokenPlan, TokenStage, fit_codebook


def train_tokens(
    out: Path,
    seed: int = 0,
    resume: bool = True,
    plan: TokenPlan = DIGITS_RAR,
    progress: bool = True,
) -> LoadedGenerator:
    """Train a model into a folder that `models.generator.load_generator` reads.

    Arguments, threads and errors are those of `run.train`.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        data = load_digits()
        make_folder(out / "state")
        prepare_output(out / "model.json")
        seed_step(seed, TokenStage.name, -1)
        tokenizer = fit_codebook(data, plan.tokenizer)
        stage = TokenStage(data, tokenizer, plan)
        run = run_stage(stage, out / "state", seed, resume, progress=progress)
        stated = {METADATA: json_text({"tokenizer": plan.tokenizer.to_dict()}, sort_keys=True)}
        write_file(out / TOKENIZER_FILE, tensor_bytes(tokenizer.state_dict(), stated))
        save_transformer(out / WEIGHTS, stage.averaged, plan.finest)
        _report(out, plan, seed, data, stage, run)
    finally:
        torch.set_num_threads(threads)
    return load_generator(out)


@torch.no_grad()
def _report(
    out: Path, plan: TokenPlan, seed: int, data: ImageSet, stage: TokenStage, run: StageRun
) -> None:
    """Measure the stored weights; write the picture, the card and, last, model.json."""
    model, tokenizer = load_transformer(out / WEIGHTS), stage.tokenizer
    judge = load_model("digits").classifier()
    labels_N = torch.arange(plan.samples) % plan.config.num_classes
    drawn = [
        generate_tokens(model, part, seed + i, plan.sampling).tokens_BT
        for i, part in enumerate(labels_N.split(100))
    ]
    images = tokenizer.decode(torch.cat(drawn))
    real, val_tokens = (data.val_images + 1) / 2, tokenizer.encode((data.val_images + 1) / 2)
    train = (data.train_images + 1) / 2
    known = {tuple(row) for row in tokenizer.encode(train).tolist()}
    logits_BTV = model(data.val_labels, val_tokens)
    real_features = features_in_parts(judge, real)

    def distance(other: Tensor) -> float:
        return frechet_distance(features_in_parts(judge, other), real_features)

    figures: dict[str, float] = {
        "samples": plan.samples,
        "val_loss": F.cross_entropy(logits_BTV.flatten(0, 1), val_tokens.flatten()).item(),
        "agreement": agreement(judge, images, labels_N),
        "agreement_coded": agreement(judge, tokenizer.decode(val_tokens), data.val_labels),
        "frechet": distance(images),
        "frechet_coded": distance(tokenizer.decode(val_tokens)),
        "copies": sum(tuple(r) in known for r in torch.cat(drawn).tolist()) / plan.samples,
    }
    description: dict[str, Any] = {
        "format": FORMAT,
        "name": plan.name,
        "seed": seed,
        "sampling": asdict(plan.sampling),
        "classes": [str(i) for i in range(plan.config.num_classes)],
        "generator": {"family": "rar", "shape": plan.config.to_dict()},
        "tokenizer": plan.tokenizer.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": sum((out / name).stat().st_size for name in (WEIGHTS, TOKENIZER_FILE)),
        "figures": {k: round(v, 5) for k, v in figures.items()},
        "files": {name: sha256_of(out / name) for name in (WEIGHTS, TOKENIZER_FILE)},
    }
    draw_sheet(
        out / "samples.png", (images, labels_N), (real, data.val_labels), description["classes"]
    )
    write_file(out / "MODEL_CARD.md", card(description, run, plan))
    write_file(out / "model.json", json_text(description, indent=1) + "\n")


def card(description: dict[str, Any], run: StageRun, plan: TokenPlan) -> str:
    """MODEL_CARD.md from the content of model.json."""
    figures, config, sampling = description["figures"], plan.config, plan.sampling
    return f"""# Model card: {description["name"]}

A RAR model of handwritten digits: 8x8 pixels, grey, one of 10 digits per image, drawn as
{config.tokens} patches of {plan.tokenizer.patch}x{plan.tokenizer.patch} pixels one after the other.
It shows what recipes do to this kind of generator, and it is as small as its place among the
shipped weights demands: one block.

## How it was made

    lutvar train --model {description["name"]} --seed {description["seed"]}

{run.cpu_seconds / 60:.1f} minutes of processor time on one thread, torch {torch.__version__}. The
same seed gives the same weights on the same machine; other machines round differently and give a
slightly different model.

* Transformer: RAR's block (AdaLN at every position, layer norm of each head's queries and keys)
  {config.depth} deep, width {config.width}, {config.heads} heads, {description["parameters"]:,}
  parameters; a random order of the patches at first, row by row in the end.
* Tokenizer: the nearest of {config.vocab} patches found by k-means; no network.
* Weights are stored as int8 rows inside xz (under five bits each), {description["bytes"]:,} bytes;
  the rounded values are the model.

## Data

"Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998; UCI Machine
Learning Repository, CC BY 4.0), the images distributed with scikit-learn: the training part of
model `digits`, rotated, stretched and shifted a little at random.

## Figures

Measured by the training run on the stored weights; {figures["samples"]} samples, guidance
{sampling.cfg} (constant), temperature {sampling.temperature}. The classifier is that of model
`digits`.

| figure | value |
|---|---|
| samples the classifier gives the requested label | {figures["agreement"]:.1%} |
| the same for held-out images coded in patches | {figures["agreement_coded"]:.1%} |
| Fréchet distance of samples to held-out images (classifier features) | {figures["frechet"]:.2f} |
| the same for held-out images coded in patches | {figures["frechet_coded"]:.2f} |
| samples whose tokens equal a training image's | {figures["copies"]:.1%} |
| cross entropy on held-out tokens | {figures["val_loss"]:.3f} nat |

![samples](samples.png)

## Limits

Digits of this one data set and nothing else. The accelerator does not run it.
"""
