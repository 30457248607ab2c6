# SPDX-License-Identifier: Apache-2.0
"""What a training run leaves to look at: learning curves, a sample sheet, the model card."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lutvar.files import rendered, write_file

from .loop import Record, StageRun
from .plans import TrainPlan

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STORED = {
    False: "Weights are stored in float16,",
    True: "Weights are stored as int8 rows inside xz (about six bits each),",
}
_CURVES = {
    "vqvae": ("mse", "val_mse", "tokenizer: squared error"),
    "var": ("loss", "val_loss", "transformer: cross entropy per token (nat)"),
    "classifier": ("loss", "val_accuracy", "classifier: loss and accuracy"),
}


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "the report of a training run is drawn with matplotlib, which is not installed; "
            "install the extra: pip install 'lutvar[train]'"
        ) from error
    return Figure(figsize=(width, height), dpi=80, layout="constrained")


def _write(figure: Figure, path: Path) -> None:
    write_file(path, rendered(lambda file: figure.savefig(file, format="png")))


def draw_curves(path: Path, histories: dict[str, list[Record]]) -> None:
    """PNG with training and held-out curves of every stage."""
    figure = _figure(12, 3.2)
    for axes, (stage, (train, held_out, title)) in zip(
        figure.subplots(1, len(_CURVES)), _CURVES.items(), strict=True
    ):
        steps = [r["step"] for r in histories[stage]]
        for key in (train, held_out):
            axes.plot(steps, [r[key] for r in histories[stage]], label=key)
        axes.set(title=title, xlabel="step", yscale="log")
        axes.legend()
        axes.grid(alpha=0.3)
    _write(figure, path)


COLUMNS = 8  #: images of each class, generated and real


def draw_sheet(
    path: Path,
    sampled: tuple[Tensor, Tensor],
    real: tuple[Tensor, Tensor],
    names: Sequence[str],
) -> None:
    """PNG with one row per class: generated images on the left, real ones on the right.

    Args:
        path: the file.
        sampled: images [N, C, H, W] in [0, 1] and their labels [N].
        real: the same of real images.
        names: of the classes.
    """
    classes = sampled[1].unique().tolist()
    cell = sampled[0].shape[-1] + 1
    # One picture for all images: white lines between them, a white column between the halves.
    canvas = torch.ones(len(classes) * cell, (2 * COLUMNS + 1) * cell, 3, dtype=torch.float32)
    for row, label in enumerate(classes):
        for (images, labels), first in ((sampled, 0), (real, COLUMNS + 1)):
            for i, image in enumerate(images[labels == label][:COLUMNS]):
                top, left = row * cell, (first + i) * cell
                pixels = image.permute(1, 2, 0).expand(-1, -1, 3)
                canvas[top : top + cell - 1, left : left + cell - 1] = pixels
    # Small images are drawn larger.
    zoom = 1 / 16 if cell < 16 else 1 / 40
    figure = _figure(canvas.shape[1] * zoom, canvas.shape[0] * zoom + 0.4)
    axes = figure.subplots()
    axes.imshow(canvas.numpy(), interpolation="nearest")
    middle = cell // 2
    axes.set_yticks(
        [row * cell + middle - 1 for row in range(len(classes))], [names[c] for c in classes]
    )
    halves = [COLUMNS * middle, (COLUMNS + 1) * cell + COLUMNS * middle]
    axes.set_xticks(halves, ["generated", "real"])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    _write(figure, path)


def write_card(
    path: Path, description: dict[str, Any], runs: dict[str, StageRun], plan: TrainPlan
) -> None:
    """MODEL_CARD.md from the content of model.json and what each stage took."""
    figures, sampling = description["figures"], description["sampling"]
    var, vqvae = description["var"], description["vqvae"]
    wall = sum(r.seconds for r in runs.values()) / 60
    cpu = {name: r.cpu_seconds / 60 for name, r in runs.items()}
    text = f"""# Model card: {description["name"]}

{plan.about}

## How it was made

    lutvar train --model {description["name"]} --seed {description["seed"]}

{sum(cpu.values()):.1f} minutes of processor time on one thread ({
        ", ".join(f"{k} {v:.1f}" for k, v in cpu.items())
    }), {wall:.1f} minutes by
the clock on a machine with {os.cpu_count()} cores (shared with whatever else ran), torch {
        torch.__version__
    }.
The same seed gives the same weights on the same machine, interrupted or not; other machines
round differently and give a slightly different model.
{plan.remark}
* Transformer: depth {var["depth"]}, width {var["width"]}, {var["heads"]} heads, scales {
        tuple(var["patch_nums"])
    }, {description["parameters"]["var"]:,} parameters.
* Tokenizer: {vqvae["vocab"]} codebook entries of {vqvae["z_channels"]} channels, latent map {
        vqvae["patch_nums"][-1]
    }x{vqvae["patch_nums"][-1]}, {description["parameters"]["vqvae"]:,} parameters.
* {_STORED[plan.compact]} {description["bytes"]:,} bytes together; the rounded values are
  the model.

## Data

{plan.data_text}
{figures["train_images"]:,} images were used for training, {figures["val_images"]:,} were held out.

## Figures

Measured by the training run on the stored weights; {figures["samples"]} samples, cfg {
        sampling["cfg"]
    }, top-k {sampling["top_k"]}, top-p {sampling["top_p"]} (0 is off).

| figure | value |
|---|---|
| classifier accuracy on held-out real images | {figures["classifier_accuracy"]:.1%} |
| samples the classifier gives the requested label | {figures["agreement"]:.1%} |
| Fréchet distance of samples to held-out images (classifier features) | {figures["frechet"]:.2f} |
| the same for real training images | {figures["frechet_real_train"]:.2f} |
| different token maps among the samples | {figures["distinct"]:.1%} |
| samples whose token maps equal a training image's | {figures["copies"]:.1%} |
| spread within a class, relative to real images | {figures["spread"]:.2f} |
| reconstruction of held-out images | {figures["reconstruction_psnr_db"]:.1f} dB PSNR |
| codebook entries in use | {figures["used_entries"]:.0f} of {vqvae["vocab"]} |
| cross entropy on held-out tokens | {figures["val_loss"]:.3f} nat |

The Fréchet distance uses the small classifier of this folder and compares runs of
this model only; it is not an FID.

![samples](samples.png)

![curves](curves.png)

## Limits

{plan.limits} The classifier that judges the samples saw the
same training images as the model. Not meant for any use beyond trying out
quantization and hardware.
"""
    write_file(path, text)
