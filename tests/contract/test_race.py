# SPDX-License-Identifier: Apache-2.0
"""Tokens drawn without a sort are those drawn with one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from lutvar.contract.race import UNDECIDED, Filter, Floats, race
from lutvar.contract.sampling import TokenStream, filter_logits
from lutvar.quant.var.sampling import TORCH

VOCAB = 4096
SETTINGS = [
    (900, 0.96), (0, 0.97), (900, 0.0), (0, 0.0), (1, 0.0), (1, 0.5), (50, 0.5), (VOCAB, 0.9),
    (0, 1.0), (40, 1e-6), (0, 0.05), (VOCAB - 1, 0.999), (900, 1.0), (VOCAB + 7, 0.96),
]  # fmt: skip
Rng = np.random.Generator
KINDS: dict[str, Callable[[Rng, tuple[int, int]], Any]] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape) * rng.uniform(0.1, 6, (shape[0], 1)),
    # Many equal values, at the k-th place too.
    "steps": lambda rng, shape: np.round(rng.standard_normal(shape) * 4) / 2,
    "equal": lambda rng, shape: np.full(shape, 3.0),
    "two": lambda rng, shape: rng.integers(0, 2, shape) * 5.0,
    # One token has nearly all of the probability; most have none in float32.
    "peak": lambda rng, shape: rng.standard_normal(shape) * 90,
    # The sample that estimates the k-th largest misleads.
    "sorted": lambda rng, shape: np.sort(rng.standard_normal(shape)),
    "sampled": lambda rng, shape: rng.standard_normal(shape) + 9 * (np.arange(shape[1]) % 8 == 0),
    "missed": lambda rng, shape: rng.standard_normal(shape) - 9 * (np.arange(shape[1]) % 8 == 0),
    # 1,000 of a row tie with its 900th.
    "ties": lambda rng, shape: np.clip(rng.standard_normal(shape) * 3, 2, 2.5).round(1),
    "impossible": lambda rng, shape: np.where(
        rng.random(shape) < 0.5, -np.inf, rng.standard_normal(shape)
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_race_draws_what_the_filter_and_a_draw_give(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    logits: Floats = KINDS[kind](rng, (40, VOCAB)).astype(np.float32)
    logits[:, 0] = np.maximum(logits[:, 0], 0)  # a finite largest one
    for number, (top_k, top_p) in enumerate(SETTINGS):
        streams = [TokenStream(number) for _ in range(2)]
        for _ in range(2):  # both use up as many bits
            expected = streams[0].draw(filter_logits(logits, top_k, top_p))
            assert np.array_equal(streams[1].draw_filtered(logits, top_k, top_p), expected)


def test_another_library_decides_what_the_race_leaves() -> None:
    """With PyTorch's arithmetic the tokens are those that PyTorch's filter and draw give."""
    rng = np.random.default_rng(11)
    logits = np.round(rng.standard_normal((200, VOCAB), np.float32) * 8) / np.float32(4)
    for top_k, top_p in SETTINGS:
        one, other = TokenStream(4), TokenStream(4)
        expected = one.draw(filter_logits(logits, top_k, top_p, TORCH), TORCH)
        assert np.array_equal(other.draw_filtered(logits, top_k, top_p, TORCH), expected)


@pytest.mark.parametrize("vocab", [1, 2, 5, 31, 33, 64])
def test_small_vocabularies(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    for top_k in {0, 1, vocab // 2, vocab, vocab + 3}:
        for top_p in (0.0, 0.4, 0.9, 1.0):
            logits = rng.standard_normal((200, vocab)).astype(np.float32)
            one, other = TokenStream(7), TokenStream(7)
            expected = one.draw(filter_logits(logits, top_k, top_p))
            assert np.array_equal(other.draw_filtered(logits, top_k, top_p), expected)


def test_no_rows_and_rows_of_other_memory_orders() -> None:
    assert TokenStream(1).draw_filtered(np.zeros((0, 8), np.float32), 2, 0.5).shape == (0,)
    logits = np.random.default_rng(2).standard_normal((64, 30)).astype(np.float32)
    one, other = TokenStream(1), TokenStream(1)
    assert np.array_equal(
        one.draw_filtered(np.asfortranarray(logits), 9, 0.8), other.draw_filtered(logits, 9, 0.8)
    )


def test_few_rows_are_left_to_the_filter() -> None:
    """With logits like a model's; otherwise the race would save nothing."""
    rng = np.random.default_rng(3)
    logits = (rng.standard_normal((500, VOCAB)) * rng.uniform(1, 4, (500, 1))).astype(np.float32)
    for rule, most in ((Filter(900, 0.96), 50), (Filter(0, 0.97), 5), (Filter(900, 0.0), 5)):
        bits = rng.integers(0, 1 << 64, logits.size, np.uint64, endpoint=False)
        tokens = race(logits, bits, rule)
        assert (tokens == UNDECIDED).sum() <= most
        kept = filter_logits(logits, *rule)[np.arange(500), tokens]
        assert (kept[tokens != UNDECIDED] > -np.inf).all()


def test_words_of_zero_are_the_filters() -> None:
    """A variable of 0 wins whatever its probability is, and several of them are undecided."""
    logits = np.zeros((2, 8), np.float32)
    bits = np.full(16, 1 << 52, np.uint64)
    bits[[3, 9, 12]] = 0
    tokens = race(logits, bits, Filter(0, 0.0))
    assert tokens[1] == UNDECIDED
    assert tokens[0] in (3, UNDECIDED)
