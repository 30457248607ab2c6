# SPDX-License-Identifier: Apache-2.0
"""The sampler without PyTorch draws what PyTorch's draws."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lutvar.contract.sampling import (
    NUMPY,
    Floats,
    TokenStream,
    filter_logits,
    softmax,
)
from lutvar.contract.seeds import MAX_SEED
from lutvar.contract.smoothing import smooth_weights
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


@pytest.mark.parametrize("kind", ["different", "ties", "equal"])
@pytest.mark.parametrize(("top_k", "top_p"), SETTINGS)
def test_rows_are_filtered_as_alone(kind: str, top_k: int, top_p: float) -> None:
    """To the last bit, whichever rows share a part."""
    rng = np.random.default_rng(3)
    rows = rng.permutation(logits(kind, 51, 4096))[:, : 4096 if top_k > 40 else 64]
    for library in (NUMPY, TORCH):
        together = filter_logits(rows, top_k, top_p, library)
        for first, last in ((0, 1), (1, 17), (17, 26), (26, 51)):
            alone = filter_logits(rows[first:last], top_k, top_p, library)
            np.testing.assert_array_equal(together[first:last], alone)


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


@pytest.mark.parametrize("ahead", [(1, 1), (0, 3), (5, 0), (40, 20), (2, 300)])
def test_bits_made_ahead_are_those_of_the_draw(ahead: tuple[int, ...]) -> None:
    """As many as the draw takes, fewer, or more, in one or two calls; noise follows."""
    values = logits("different", 20)
    one, other = TokenStream(5), TokenStream(5)
    for round_ in range(3):
        for rows in ahead:
            one.ahead(rows * values.shape[1])
        wanted = other.draw_filtered(values, 9, 0.9)
        np.testing.assert_array_equal(one.draw_filtered(values, 9, 0.9), wanted)
        if round_:
            np.testing.assert_array_equal(one.gumbel(values), other.gumbel(values))


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    values = logits("ties", 30)
    for top_p in (0.0, 0.9):
        wanted = filter_logits(values, 0, top_p)
        np.testing.assert_array_equal(filter_logits(values, values.shape[1] + 5, top_p), wanted)


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


@pytest.mark.parametrize("top_k", [0, 20])
def test_gumbel_noise_is_that_of_pytorch(top_k: int) -> None:
    """Behind a draw from the same stream, and as many bits of it."""
    generator, stream = torch.Generator().manual_seed(9), TokenStream(9)
    for rows in (1, 30, 200):
        left = filter_logits(logits("different", rows, 500), top_k, 0.0, TORCH)
        theirs = sampling.draw(torch.from_numpy(left)[None], generator)[0].numpy()
        np.testing.assert_array_equal(stream.draw(left, TORCH), theirs)
        wanted = -torch.empty(left.shape).exponential_(generator=generator).log().numpy()
        noise = stream.gumbel(left, TORCH)
        wanted = np.where(left > -np.inf, wanted, 0)
        np.testing.assert_allclose(noise, wanted, rtol=1e-6, atol=1e-6)
        assert np.isfinite(noise).all()


@pytest.mark.parametrize("scale", [0, 1, 4])
def test_smooth_weights(scale: int) -> None:
    """The released rule in its own words; one rule for both libraries."""
    left = filter_logits(logits("different", 40), 9, 0.9)
    noise = TokenStream(1).gumbel(left)
    weights = smooth_weights(left, noise, scale, 5, softmax)
    ratio = scale / 4
    values = torch.from_numpy(left).double() * (1 + ratio) + torch.from_numpy(noise)
    wanted = (values / max(0.27 * (1 - ratio * 0.95), 0.005)).softmax(-1)
    np.testing.assert_allclose(weights, wanted, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert (weights[np.isinf(left)] == 0).all()
    tensors = torch.from_numpy(left), torch.from_numpy(noise)
    both = smooth_weights(*tensors, scale, 5, lambda x: x.softmax(-1))
    np.testing.assert_array_equal(smooth_weights(left, noise, scale, 5, TORCH.softmax), both)


def test_noise_is_finite_for_a_variable_of_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(_low: int, _high: int, count: int, kind: type) -> np.ndarray:
        return np.zeros(count, kind)

    stream = TokenStream(0)
    monkeypatch.setattr(stream, "_bits", SimpleNamespace(randint=zeros))
    left = np.array([[0, 1, -np.inf]], np.float32)
    weights = smooth_weights(left, stream.gumbel(left), 0, 2, softmax)
    assert np.isfinite(weights).all() and weights[0, 2] == 0
