# SPDX-License-Identifier: Apache-2.0
"""Tokens of rows whose filter need not be carried out: first who wins, then whether it took part.

Top-k and top-p let a token take part by its rank and by the probability of all above it. A draw
takes the largest ratio of probability to an exponential variable (`sampling`). So instead of
sorting every row, the ratios of all tokens are bounded, the winner is found, and two sums say
whether the filter lets it through; if it does not, those above it race again. All comparisons keep
a margin far beyond what float32 rounds, and a row that one of them cannot decide is left to the
filter. So the tokens are those of `filter_logits` and a draw from what it leaves.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

UNDECIDED = -1  #: instead of a token
_MARGIN = 1e-5  #: relative; five float32 operations err by a thirtieth of it
_SAMPLE = 32  #: every so many-th logit of a row is in the sample that estimates its k-th largest
_CAUTION = 0.85  #: of k: a threshold with fewer than k tokens above it bounds their sum best
_UPPER = 21  #: bits of a variable's 53 that are in the upper word


class Filter(NamedTuple):
    """`top_k` and `top_p` of `sampling.filter_logits`."""

    top_k: int
    top_p: float


def exponential(bits: NDArray[np.uint64]) -> Floats:
    """Exponential variables of 64 random bits each: -log1p(-u) of the lower 53."""
    mantissa = bits & np.uint64((1 << 53) - 1)
    return (-np.log1p(mantissa * -(2.0**-53))).astype(np.float32)


def race(logits: Floats, bits: NDArray[np.uint64], rule: Filter) -> Integers:
    """The token that each row draws, [n], or UNDECIDED.

    Args:
        logits: [n, V], no NaN; the largest of a row is finite.
        bits: [n * V], random.
        rule: which tokens take part.
    """
    count, vocab = logits.shape
    share = logits - logits.max(-1, keepdims=True)
    np.exp(share, out=share)
    # A variable is at least its u, and u at least what the bits of the upper word say of it.
    words = bits.view(np.uint32)[sys.byteorder == "little" :: 2]
    bound = (words & np.uint32((1 << _UPPER) - 1)).view(np.int32).astype(np.float32)
    bound = bound.reshape(count, vocab)
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(share, bound, out=bound)
    tokens = np.full(count, UNDECIDED, np.int64)
    referee = _Referee(logits, share, rule)
    rows = np.arange(count)
    while len(rows):
        winner = _winner(bound, share, bits, rows)
        rows, winner = rows[winner >= 0], winner[winner >= 0]
        kept, dropped = referee.decide(rows, winner)
        tokens[rows[kept]] = winner[kept]
        rows, winner = rows[dropped], winner[dropped]
        # With a token that the filter drops it drops all that are not above it.
        bound[rows] = np.where(logits[rows] > logits[rows, winner, None], bound[rows], 0)
    return tokens


def _winner(bound: Floats, share: Floats, bits: NDArray[np.uint64], rows: Integers) -> Integers:
    """By row the token with the largest ratio, or UNDECIDED where another one is near it."""
    part, vocab = (bound if len(rows) == len(bound) else bound[rows]), bound.shape[1]
    if not len(rows):
        return rows

    def ratios(row: Integers, token: Integers) -> NDArray[np.float64]:
        at = rows[row]
        variable = exponential(bits[at * vocab + token]).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return share[at, token] / (variable * 2.0**_UPPER)

    ordinal = np.arange(len(rows))
    best = ratios(ordinal, part.argmax(-1))
    clear = best > 0  # not where neither a probability nor its variable is above 0
    reach = np.where(clear, best * (1 - _MARGIN), np.inf).astype(np.float32)
    found = np.flatnonzero(part >= reach[:, None])
    row, token = np.divmod(found, vocab)
    start = np.searchsorted(row, ordinal[clear])
    winner = np.full(len(rows), UNDECIDED, np.int64)
    if not clear.any():
        return winner
    value = ratios(row, token)
    largest = np.maximum.reduceat(value, start)
    position = np.searchsorted(ordinal[clear], row)
    first = np.flatnonzero(value == largest[position])
    first = first[np.searchsorted(row[first], ordinal[clear])]
    value[first] = -1
    apart = np.maximum.reduceat(value, start) < largest * (1 - _MARGIN)
    winner[clear] = np.where(apart, token[first], UNDECIDED)
    return winner


class _Referee:
    """Whether the filter keeps a token."""

    def __init__(self, logits: Floats, share: Floats, rule: Filter) -> None:
        self.logits, self.share = logits, share
        self.keep = rule.top_k or logits.shape[1]
        #: Of the sum of all that may take part by rank: so much may lie above a token.
        self.most = 1 - float(np.float32(1 - rule.top_p)) if rule.top_p > 0 else np.inf
        self.total = share.sum(-1, dtype=np.float64)  # no sum of tokens is larger
        self.least = self._least() if self.keep < logits.shape[1] else self.total

    def _least(self) -> NDArray[np.float64]:
        """A lower bound of the sum of the k largest of each row, which ties make larger."""
        logits = self.logits
        sample = logits[:, ::_SAMPLE]
        rank = min(int(_CAUTION * self.keep / logits.shape[1] * sample.shape[1]) + 1,
                   sample.shape[1])  # fmt: skip
        threshold = np.partition(sample, sample.shape[1] - rank, axis=-1)[:, -rank, None]
        count, sums, _ = self._above(np.arange(len(logits)), threshold)
        return sums * np.minimum(1, self.keep / count)

    def _above(
        self, rows: Integers, threshold: Floats
    ) -> tuple[Integers, NDArray[np.float64], Floats]:
        """Of each row the number of logits from a threshold [n, 1] on, at least one, and the sum
        of their shares; all these shares."""
        logits, share = self.logits, self.share
        if len(rows) != len(logits):
            logits, share = logits[rows], share[rows]
        found = np.flatnonzero(logits >= threshold)
        values = share.reshape(-1)[found]
        ends = np.searchsorted(found, np.arange(len(rows) + 1) * logits.shape[1])
        sums = np.add.reduceat(values, ends[:-1], dtype=np.float64)
        return ends[1:] - ends[:-1], sums, values

    def decide(self, rows: Integers, tokens: Integers) -> tuple[Flags, Flags]:
        """(kept for certain, dropped for certain) of one token in each of some rows."""
        if not len(rows):
            return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
        own = self.share[rows, tokens]
        count, sums, values = self._above(rows, self.logits[rows, tokens, None])
        above = sums - own
        # Of equal ones the order of the sort decides.
        start = np.cumsum(count) - count
        alone = np.add.reduceat(values == np.repeat(own, count), start, dtype=np.int64) == 1
        kept = (count <= self.keep) & (
            (count == 1) | (above < (self.most - _MARGIN) * self.least[rows])
        )
        dropped = (count > self.keep) | (above > (self.most + _MARGIN) * self.total[rows])
        return kept & alone, dropped & alone
