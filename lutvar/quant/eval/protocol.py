# SPDX-License-Identifier: Apache-2.0
"""Runs of the ImageNet protocol: sampling as for any model, figures from `imagenet`.

Source: see `imagenet`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import lutvar
from lutvar.quant.models import load_model

from .chunk import chunks_of
from .evaluate import Bars, Plan, sample_seed, subjects_of
from .frechet import need_samples
from .imagenet import (
    FEATURES,
    ImagenetFigures,
    Inception,
    find_weights,
    load_adm,
    measure,
    need_package,
    stored_images,
)
from .intervals import interval
from .methods import FLOAT


class ImagenetRun(NamedTuple):
    """Figures of one method and seed; `on` as in `evaluate.Run`."""

    method: str
    on: str
    seed: int
    figures: ImagenetFigures


def evaluate_imagenet(
    plan: Plan, reference: Path | None, weights: Path | None, bars: Bars
) -> list[ImagenetRun] | None:
    """Sample with each method and seed and measure with Inception.

    Args:
        plan: what; its settings must keep the images.
        reference: ADM's reference batch.
        weights: of Inception; None looks in torch's download folder.
        bars: opens a progress bar.

    Returns:
        The runs; None in a process of torchrun that is not the first.

    Raises:
        ProtocolError: a package or file is missing; found before anything is computed.
        ModelError, ValueError, StoreError, WorkError: as for `evaluate`.
    """
    need_package()
    weights_file, batch = find_weights(weights), load_adm(reference)
    need_samples(plan.samples, FEATURES)
    model = load_model(plan.model)
    subjects = subjects_of(plan, model)
    inception = Inception(weights_file, plan.device) if plan.share.index == 0 else None
    runs: list[ImagenetRun] = []
    for subject in subjects:
        on = FLOAT if subject.name == FLOAT else subject.on
        for seed in plan.seeds:
            store = sample_seed(plan, subject, seed, bars, judged=False)
            if inception is not None:
                images = stored_images(store, chunks_of(plan.samples, plan.settings), plan.samples)
                figures = measure(inception, images, batch)
                runs.append(ImagenetRun(subject.name, on, seed, figures))
    return runs if inception is not None else None


_COLUMNS = ("fid", "inception_score", "precision", "recall")


def imagenet_document(plan: Plan, runs: list[ImagenetRun]) -> dict[str, Any]:
    """Everything about the runs, as JSON values."""
    return {
        "lutvar": lutvar.__version__,
        "protocol": "imagenet",
        "model": plan.model,
        "settings": {
            **plan.settings.as_dict(), "samples": plan.samples, "seeds": list(plan.seeds),
        },
        "runs": [
            {"method": r.method, "on": r.on, "seed": r.seed, **r.figures.as_dict()} for r in runs
        ],
    }  # fmt: skip


def imagenet_rows(runs: list[ImagenetRun]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of a table, mean and interval over seeds."""
    rows = []
    for method, on in dict.fromkeys((run.method, run.on) for run in runs):
        figures_of_runs = [r.figures.as_dict() for r in runs if (r.method, r.on) == (method, on)]
        intervals = [interval([figures[c] for figures in figures_of_runs]) for c in _COLUMNS]
        cells = [
            f"{i.mean:.3f}" if i.half_width is None else f"{i.mean:.3f} ±{i.half_width:.3f}"
            for i in intervals
        ]
        rows.append([method, on, *cells])
    return ["method", "computed", "FID", "Inception score", "precision", "recall"], rows
