# SPDX-License-Identifier: Apache-2.0
"""The sampler without PyTorch draws what PyTorch's draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lutvar.contract.sampling import Floats, TokenStream, filter_logits, softmax
from lutvar.contract.seeds import MAX_SEED
from lutvar.quant.var import sampling

SETTINGS = [(0, 0.0), (1, 0.0), (5, 0.0), (0, 0.3), (0, 0.95), (7, 0.9), (40, 0.5), (40, 1.0),
            (64, 0.96), (3, 1e-6)]  # fmt: skip


TORCH = sampling.TORCH


def logits(kind: str, rows: int = 300, vocab: int = 64) -> Floats:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((rows, vocab)) * rng.choice([0.1, 2, 30], (rows, 1))
    if kind == "ties":
        values = np.round(values)
    if kind == "equal":
        values[:] = 1.5
    return values.astype(np.float32)


@pytest.mark.parametrize("kind", ["different", "ties", "equal"])
@pytest.mark.parametrize(("top_k", "top_p"), SETTINGS)
def test_the_same_logits_are_left(kind: str, top_k: int, top_p: float) -> None:
    values = logits(kind)
    before = values.copy()
    mine = filter_logits(values, top_k, top_p, TORCH)
    theirs = sampling.filter_logits(torch.from_numpy(values), top_k, top_p).numpy()
    np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(values, before)
    assert np.isfinite(mine).any(-1).all()
    # Its own softmax decides the same unless a sum is within rounding of the limit.
    alone = filter_logits(values, top_k, top_p)
    assert (np.isfinite(alone).sum(-1) == np.isfinite(mine).sum(-1)).mean() > 0.98


@pytest.mark.parametrize("seed", [0, 1, 77, MAX_SEED])
def test_the_same_tokens_are_drawn(seed: int) -> None:
    """Call after call on one stream, with either softmax."""
    generator = torch.Generator().manual_seed(seed)
    streams = TokenStream(seed), TokenStream(seed)
    for rows, (top_k, top_p) in zip((1, 4, 9, 300, 17), SETTINGS[3:], strict=False):
        left = filter_logits(logits("different", rows, 500), top_k, top_p, TORCH)
        theirs = sampling.draw(torch.from_numpy(left)[None], generator)[0].numpy()
        np.testing.assert_array_equal(streams[0].draw(left, TORCH), theirs)
        np.testing.assert_array_equal(streams[1].draw(left), theirs)


def test_draws_follow_the_probabilities() -> None:
    values = np.tile(np.log(np.array([[1, 2, 3, 4]], np.float32)), (40000, 1))
    drawn = np.bincount(TokenStream(3).draw(values), minlength=4) / 40000
    np.testing.assert_allclose(drawn, [0.1, 0.2, 0.3, 0.4], atol=0.01)


def test_softmax() -> None:
    values = logits("different")
    np.testing.assert_allclose(softmax(values), TORCH.softmax(values), rtol=2e-6, atol=1e-30)
    np.testing.assert_array_equal(softmax(np.array([[0, -np.inf]], np.float32)), [[1, 0]])


def test_a_seed_out_of_range() -> None:
    with pytest.raises(ValueError, match="seed"):
        TokenStream(MAX_SEED + 1)
