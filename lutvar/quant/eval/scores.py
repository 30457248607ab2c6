# SPDX-License-Identifier: Apache-2.0
"""Figures from what a classifier says about samples.

Source: the Inception score (arXiv:1606.03498), section 4, here with a small classifier of the
same classes as the model instead of Inception: its largest value is the number of classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: With this many samples or more, the score is the mean over ten parts, as in the paper.
_SPLIT_FROM = 1000


class Score(NamedTuple):
    """Mean and standard deviation of the score over the parts, and their number."""

    mean: float
    deviation: float
    splits: int


@torch.no_grad()
def class_score(logits_NK: Tensor, splits: int | None = None) -> Score:
    """exp of the mean KL divergence of the class posteriors from their mean.

    Args:
        logits_NK: the classifier's logits.
        splits: number of consecutive parts, each scored alone; by default 10, or 1 for fewer than
            1000 samples.

    Raises:
        ValueError: fewer samples than parts.
    """
    count = logits_NK.shape[0]
    if splits is None:
        splits = 10 if count >= _SPLIT_FROM else 1
    if not 1 <= splits <= count:
        raise ValueError(f"splits = {splits}: from 1 to the number of samples, {count}")
    scores = []
    for part in logits_NK.double().tensor_split(splits):
        log_p = part.log_softmax(1)
        log_mean = log_p.logsumexp(0) - torch.tensor(part.shape[0], dtype=torch.float64).log()
        scores.append((log_p.exp() * (log_p - log_mean)).sum(1).mean().exp())
    values = torch.stack(scores)
    return Score(float(values.mean()), float(values.std(correction=0)), splits)


def class_agreement(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Share of samples whose most likely class is the requested one."""
    return float((logits_NK.argmax(1) == labels_N).double().mean())
