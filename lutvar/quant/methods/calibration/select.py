# SPDX-License-Identifier: Apache-2.0
"""Distribution-guided calibration: which rows of the calibration samples to use.

Source: PTQ4ARVG (arXiv:2601.21238): rows whose features are far from the mean (Mahalanobis
distance) say more about the distribution; half of the rows are kept. The released code uses the
distances only to set the share of conditional rows.

The distance is a ranking only while there are more rows than dimensions: for N <= C + 1 rows in
general position the pseudo-inverse gives every row the distance (N - 1) / sqrt(N), and the released
settings (128 rows, 1024 and more channels) are such a case. This is detected and reported; fewer
dimensions (principal components) make the ranking mean something again.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.generator import Model, generator_of

from .samples import CalibrationSet

#: Distances that agree to this are taken as equal, as released.
SAME = 1e-3


class SelectSpec(BaseModel):
    """Settings of the selection, as recipes write them.

    Attributes:
        rule: "paper" keeps the rows with the largest distances; "code" only takes the share of
            conditional rows from them and keeps the first rows of each batch.
        feature: "first" is the last block's output at the first token with every token visible to
            every other, as released (under the model's own mask that output depends on the class
            alone); "mean" is its mean over all tokens under the model's mask.
        reduce: principal components to keep; None for all channels.
        keep: share of all rows.
        batch: samples of a batch (rule "code").
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rule: Literal["paper", "code"] = "code"
    feature: Literal["first", "mean"] = "first"
    reduce: int | None = Field(default=None, ge=1)
    keep: float = Field(default=0.5, gt=0, le=1)
    batch: int = Field(default=32, ge=1)


def principal_components(x_NC: Tensor, count: int) -> Tensor:
    """Scores [N, count] of the centred rows on their leading principal components."""
    centred = x_NC.double() - x_NC.double().mean(0)
    u_NK, s_K, _ = torch.linalg.svd(centred, full_matrices=False)
    return u_NK[:, :count] * s_K[:count]


def mahalanobis(x_NC: Tensor) -> Tensor:
    """Distance of each row from the mean in units of the rows' own covariance, [N] float64."""
    centred = x_NC.double() - x_NC.double().mean(0)
    # With X = U S V^T the distance is sqrt(N - 1) times the norm of the row of U.
    u_NK, s_K, _ = torch.linalg.svd(centred, full_matrices=False)
    rank = int((s_K > s_K[0] * 1e-9).sum()) if s_K.numel() and s_K[0] > 0 else 0
    return u_NK[:, :rank].norm(dim=1) * math.sqrt(max(len(x_NC) - 1, 1))


def is_degenerate(rows: int, dimensions: int) -> bool:
    """Whether the distances of this many rows are equal whatever their values."""
    return rows <= dimensions + 1


@torch.no_grad()
def features(var: Model, calibration: CalibrationSet, spec: SelectSpec) -> Tensor:
    """Features of all 2 N rows, [2 N, C]."""
    labels_B, latent_BLZ = replace(calibration, rows=None).row_data(var.config.num_classes)
    generator, parts = generator_of(var), []
    for labels_b, latent_bLZ in zip(labels_B.split(64), latent_BLZ.split(64), strict=True):
        x_BLC = generator.last_output(labels_b, latent_bLZ, masked=spec.feature == "mean")
        parts.append(x_BLC[:, 0] if spec.feature == "first" else x_BLC.mean(1))
    features_BC = torch.cat(parts)
    if not bool(features_BC.isfinite().all()):
        raise CalibrationError("calibration.select: features are not finite; check the weights")
    return features_BC


def select(var: Model, calibration: CalibrationSet, spec: SelectSpec) -> CalibrationSet:
    """The calibration set with `rows` chosen and a note that says how.

    Raises:
        CalibrationError: a ranking is asked for that would not mean anything, or fewer than two
            samples.
    """
    count = len(calibration)
    if count < 2:
        raise CalibrationError(f"calibration.select: {count} sample(s) have no distribution; "
                               "set calibration.samples to 2 or more")  # fmt: skip
    features_BC = features(var, calibration, spec)
    if spec.reduce is not None and spec.reduce >= min(count - 1, features_BC.shape[1]):
        raise CalibrationError(
            f"calibration.select.reduce = {spec.reduce}: must be below "
            f"{min(count - 1, features_BC.shape[1])} with {count} samples of "
            f"{features_BC.shape[1]} channels"
        )
    halves = list(features_BC.chunk(2))
    if spec.reduce is not None:
        halves = [principal_components(half, spec.reduce) for half in halves]
    dimensions = halves[0].shape[1]
    notes = []
    if is_degenerate(count, dimensions):
        notes.append(
            f"distribution-guided calibration is degenerate: {count} samples of {dimensions} "
            "dimensions are all equally far from their mean; set calibration.select.reduce or "
            f"at least {dimensions + 2} samples"
        )
        if spec.rule == "paper":
            raise CalibrationError(notes[0])
    distances = [mahalanobis(half) for half in halves]
    if spec.rule == "paper":
        keep = max(1, round(spec.keep * 2 * count))
        ranked = torch.cat(distances).argsort(descending=True, stable=True)
        rows = ranked[:keep].sort().values
        share = float((rows < count).double().mean())
    else:
        rows, share = _by_share(distances, count, spec)
    notes.append(f"{len(rows)} of {2 * count} rows used, {share:.3f} of them conditional")
    return replace(calibration, rows=rows, notes=(*calibration.notes, *notes))


def _by_share(distances: list[Tensor], count: int, spec: SelectSpec) -> tuple[Tensor, float]:
    """Rows by the rule of the released code, and the share of conditional rows."""
    if torch.allclose(distances[0], distances[1], atol=SAME):
        share = 0.5
    else:
        top = torch.cat(distances).topk(count).indices
        share = float((top < count).double().mean())
    rows: list[Tensor] = []
    for start in range(0, count, spec.batch):
        size = min(spec.batch, count - start)
        keep = max(1, round(2 * spec.keep * size))
        conditional = min(round(share * keep), size)
        rows.append(start + torch.arange(conditional))
        rows.append(count + start + torch.arange(min(keep - conditional, size)))
    return torch.cat(rows).sort().values, share
