# SPDX-License-Identifier: Apache-2.0
"""Draws of a batch in which every image has its own stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from lutvar.quant.models import load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sampling import draw, draw_independent, filter_logits


def _streams(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in range(count)]


@pytest.mark.parametrize(("length", "vocab"), [(64, 512), (3, 7), (30, 4096)])
def test_equal_to_draws_of_each_image_alone(length: int, vocab: int) -> None:
    logits = 3 * torch.randn(4, length, vocab, generator=torch.Generator().manual_seed(9))
    logits = filter_logits(logits, 5, 0.9)
    alone = [draw(x[None], g) for x, g in zip(logits, _streams(4), strict=True)]
    assert torch.equal(draw_independent(logits, _streams(4)), torch.cat(alone))


def test_frequencies() -> None:
    p = torch.tensor([0.5, 0.25, 0.125, 0.1, 0.025, 0.0])
    drawn = draw_independent(p.log().expand(10, 2000, 6), _streams(10))
    counts = np.bincount(drawn.flatten().numpy(), minlength=6)
    assert counts[5] == 0
    assert chisquare(counts[:5], 20000 * p[:5].double().numpy() / p.sum().item()).pvalue > 0.001
    # Neighbouring seeds have nothing to do with each other.
    same = (drawn[0] == drawn[1]).double().mean().item()
    assert same == pytest.approx(float((p**2).sum()), abs=0.04)


def test_small_changes_of_the_logits_change_few_tokens() -> None:
    logits = torch.randn(2, 500, 512, generator=torch.Generator().manual_seed(1))
    noise = 0.01 * torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    a, b = draw_independent(logits, _streams(2)), draw_independent(logits + noise, _streams(2))
    assert 0.97 < (a == b).double().mean() < 1


def test_generate_with_a_seed_for_each_image() -> None:
    model = load_model("digits")
    together = generate(model.var, model.vqvae, [3, 1, 4], [10, 11, 12])
    alone = generate(model.var, model.vqvae, [1], 11)
    assert torch.equal(torch.cat(together.tokens, 1)[1], torch.cat(alone.tokens, 1)[0])
    with pytest.raises(ValueError, match="3 labels and 2 seeds; one seed for each image"):
        generate(model.var, model.vqvae, [3, 1, 4], [10, 11])
