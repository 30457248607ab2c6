# SPDX-License-Identifier: Apache-2.0
"""Calibration resampling: sampled tokens moved until each entry occurs as often as predicted.

Source: Shift-and-Sum (arXiv:2606.16131). Entry k should occur N T p_k times, with p_k its mean
probability over samples and positions. Tokens of entries that occur too often are given to entries
that occur too rarely, drawn from the probabilities at their own position.

Two rules: "paper" counts over all scales together and moves whole differences of real-valued
targets; "code" (the release) counts each scale by itself against targets rounded by largest
remainders, and moves the tokens whose position gives rare entries the most probability first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

ResampleRule = Literal["paper", "code"]


class Difference(NamedTuple):
    """How many tokens of each entry are too many, and how many are missing, [V] each."""

    excess_V: Tensor
    missing_V: Tensor


def difference(tokens_NP: Tensor, prob_NPV: Tensor, rule: ResampleRule) -> Difference:
    """Compare counts of tokens with the targets of a rule."""
    vocab = prob_NPV.shape[-1]
    count_V = torch.bincount(tokens_NP.flatten(), minlength=vocab)
    expected_V = prob_NPV.double().mean((0, 1)) * tokens_NP.numel()
    if rule == "paper":
        over_V = count_V - expected_V
        return Difference(over_V.clamp_min(0).floor().long(), (-over_V).clamp_min(0).floor().long())
    target_V = expected_V.floor()
    rest = tokens_NP.numel() - int(target_V.sum())
    if rest > 0:
        target_V[torch.topk(expected_V - target_V, min(rest, vocab)).indices] += 1
    over_V = count_V - target_V.long()
    return Difference(over_V.clamp_min(0), (-over_V).clamp_min(0))


def resample(
    tokens_NP: Tensor,
    prob_NPV: Tensor,
    generators: Sequence[torch.Generator],
    rule: ResampleRule = "code",
) -> Tensor:
    """Tokens [N, P] with the counts that the probabilities ask for.

    Args:
        tokens_NP: sampled tokens of one scale (rule "code") or of all ("paper").
        prob_NPV: probabilities that they were drawn from.
        generators: one random stream for each sample.
        rule: "paper" or "code".

    Raises:
        ValueError: probabilities that are not finite or do not fit the tokens.
    """
    if prob_NPV.shape[:2] != tokens_NP.shape or not bool(prob_NPV.isfinite().all()):
        raise ValueError(
            f"tokens {tuple(tokens_NP.shape)}, probabilities {tuple(prob_NPV.shape)}: need finite "
            "ones for every token; check the model's logits"
        )
    tokens_NP = tokens_NP.clone()
    excess_V, missing_V = difference(tokens_NP, prob_NPV, rule)
    rare_V = missing_V > 0
    for entry in (excess_V > 0).nonzero().flatten().tolist():
        sample_K, place_K = (tokens_NP == entry).nonzero(as_tuple=True)
        mass_K = prob_NPV[sample_K, place_K] @ rare_V.to(prob_NPV.dtype)
        order_K = mass_K.argsort(descending=True, stable=True)[: int(excess_V[entry])]
        for n, p in zip(sample_K[order_K].tolist(), place_K[order_K].tolist(), strict=True):
            if not bool(rare_V.any()):
                return tokens_NP
            local_V = prob_NPV[n, p] * rare_V
            if not bool(local_V.sum() > 0):
                local_V = rare_V.to(prob_NPV.dtype)
            new = int(torch.multinomial(local_V, 1, generator=generators[n]))
            tokens_NP[n, p] = new
            missing_V[new] -= 1
            rare_V[new] = bool(missing_V[new] > 0)
    return tokens_NP


def resample_scales(
    tokens: Sequence[Tensor],
    probabilities: Sequence[Tensor],
    seed: int,
    rule: ResampleRule,
    seeds: Sequence[int] | None = None,
) -> list[Tensor]:
    """Resample the token maps [N, p*p] of all scales; `seeds` are the images' own, if they have."""
    each = [seed * 100003 + n for n in range(len(tokens[0]))] if seeds is None else seeds
    generators = [torch.Generator().manual_seed(10_000 + own) for own in each]
    if rule == "paper":
        sizes = [t.shape[1] for t in tokens]
        every = resample(torch.cat(list(tokens), 1), torch.cat(list(probabilities), 1), generators,
                         rule)  # fmt: skip
        return list(every.split(sizes, 1))
    return [resample(t, p, generators, rule) for t, p in zip(tokens, probabilities, strict=True)]
