# SPDX-License-Identifier: Apache-2.0
"""Tokens of rows whose filter need not be carried out: first who wins, then whether it took part.

Top-k and top-p let a token take part by its rank and by the probability of all above it. A draw
takes the largest ratio of probability to an exponential variable (`sampling`). So instead of
sorting every row, a sample of it says above which logit its k largest ones lie, and only those are
looked at further. Their ratios are bounded, the winner is found, and two sums say whether the
filter lets it through; if it does not, those above it race again. All comparisons keep a margin
far beyond what float32 rounds, and a row that one of them cannot decide is left to the filter. So
the tokens are those of `filter_logits` and a draw from what it leaves.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]
Bits = NDArray[np.uint64]

UNDECIDED = -1  #: instead of a token
_MARGIN = 1e-5  #: relative; five float32 operations err by a thirtieth of it
_SAMPLE = 8  #: every so many-th logit of a row is in the sample that estimates its k-th largest
_DEVIATIONS = 2.5  #: of that estimate, so that few rows have fewer than k above it
_NEAR = 0.5  #: of a row's largest bound: what lies below seldom has the largest ratio
_UPPER = 21  #: bits of a variable's 53 that are in the upper word


class Filter(NamedTuple):
    """`top_k` and `top_p` of `sampling.filter_logits`."""

    top_k: int
    top_p: float


def exponential(bits: Bits) -> Floats:
    """Exponential variables of 64 random bits each: -log1p(-u) of the lower 53."""
    mantissa = bits & np.uint64((1 << 53) - 1)
    return (-np.log1p(mantissa * -(2.0**-53))).astype(np.float32)


def race(logits: Floats, bits: Bits, rule: Filter) -> Integers:
    """The token that each row draws, [n], or UNDECIDED.

    Args:
        logits: [n, V], no NaN, C-contiguous; the largest of a row is finite.
        bits: [n * V], random.
        rule: which tokens take part.
    """
    count, vocab = logits.shape
    tokens = np.full(count, UNDECIDED, np.int64)
    if not count:
        return tokens
    referee = _Referee(logits, bits, rule)
    rows, field = np.arange(count), referee.field
    while len(rows):
        winner = _winners(field)
        kept, dropped = referee.decide(rows, field, winner)
        tokens[rows[kept]] = field.place[winner[kept]] % vocab
        # With a token that the filter drops it drops all that are not above it.
        (again,) = dropped.nonzero()
        if not len(again):
            break
        rows = rows[again]
        field = field.above(again, field.value[winner[again]])
    return tokens


class _Field(NamedTuple):
    """Tokens of several rows that may be drawn, row after row, none of them empty.

    Attributes:
        start, size: of each row: where its tokens begin, and how many there are.
        place: of each token, where it is among all logits; ascending.
        value, share: its logit; its probability over that of the row's most likely token.
        bits: the random ones of its exponential variable.
        bound: no ratio of share to 2**21 variables is larger.
    """

    start: Integers
    size: Integers
    place: Integers
    value: Floats
    share: Floats
    bits: Bits
    bound: Floats

    def at_least(self, values: Floats, least: Floats) -> tuple[Integers, Integers, Integers]:
        """Where values, one for each token, are at least what their row demands; by row where these
        begin, and how many they are."""
        if len(values) == len(least) * self.size.max():
            flags = (values.reshape(len(least), -1) >= least[:, None]).reshape(-1)
        else:
            flags = values >= least.repeat(self.size)
        (found,) = flags.nonzero()
        start = found.searchsorted(self.start)
        return found, start, _sizes(start, len(found))

    def above(self, rows: Integers, least: Floats) -> _Field:
        """Tokens of some rows whose logits are above a value for each, of which there is one."""
        count = self.size[rows]
        first = np.cumsum(count) - count
        at = np.arange(count.sum()) + (self.start[rows] - first).repeat(count)
        flags = self.value[at] > least.repeat(count)
        at = at[flags]
        count = np.add.reduceat(flags, first, dtype=np.int64)
        return _Field(np.cumsum(count) - count, count, *(x[at] for x in self[2:]))


def _sizes(start: Integers, end: int) -> Integers:
    """Sizes of parts that follow each other, from where they begin and the end of the last."""
    size = np.empty_like(start)
    np.subtract(start[1:], start[:-1], out=size[:-1])
    size[-1] = end - start[-1]
    return size


def _field(logits: Floats, bits: Bits, keep: int) -> _Field:
    """All tokens, or the `keep` largest of each row and some more, all their equals among them."""
    count, vocab = logits.shape
    value = logits.reshape(-1)
    if keep < vocab:
        place, start, size = _largest(logits, keep)
        value, bits = value.take(place), bits.take(place)
        share = value - logits.max(-1).repeat(size)
    else:
        place, start = np.arange(len(value)), np.arange(count) * vocab
        size = np.full(count, vocab)
        share = (logits - logits.max(-1, keepdims=True)).reshape(-1)
    np.exp(share, out=share)
    # A variable is at least its u, and u at least what the bits of the upper word say of it.
    words = bits.view(np.uint32)[sys.byteorder == "little" :: 2]
    bound = (words & np.uint32((1 << _UPPER) - 1)).view(np.int32).astype(np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        np.divide(share, bound, out=bound)
    return _Field(start, size, place, value, share, bits, bound)


def _largest(logits: Floats, keep: int) -> tuple[Integers, Integers, Integers]:
    """Where the tokens of `_field` are, and by row where they begin and how many they are."""
    count, vocab = logits.shape
    rows = np.arange(count) * vocab
    sample = logits[:, ::_SAMPLE]
    size, part = sample.shape[1], keep / vocab
    rank = size * part + _DEVIATIONS * np.sqrt(size * part * (1 - part)) + 1
    if rank < size:
        at = size - int(rank)
        least = np.partition(sample, at, axis=-1)[:, at]
    else:
        least = np.full(count, -np.inf, np.float32)
    while True:
        (place,) = (logits >= least[:, None]).reshape(-1).nonzero()
        start = place.searchsorted(rows)
        size = _sizes(start, len(place))
        (few,) = (size < keep).nonzero()
        if not len(few):
            return place, start, size
        least[few] = np.partition(logits[few], vocab - keep, axis=-1)[:, vocab - keep]


def _winners(field: _Field) -> Integers:
    """By row which token has the largest ratio, or UNDECIDED where another one is near it."""
    most = np.maximum.reduceat(field.bound, field.start)
    reach = most * np.float32(_NEAR)
    winner, ratio = _first(field, reach)
    # Ratios of tokens with smaller bounds may be larger than this one.
    (open_,) = ((ratio > 0) & (ratio * (1 - 2 * _MARGIN) < reach)).nonzero()
    if len(open_):
        reach = np.full(len(reach), np.inf, np.float32)
        reach[open_] = ratio[open_] * (1 - _MARGIN)
        again, _ = _first(field, reach)
        winner[open_] = again[open_]
    return winner


def _first(field: _Field, reach: Floats) -> tuple[Integers, Doubles]:
    """By row, of the tokens whose bounds are at least `reach`: the one with the largest ratio, or
    UNDECIDED where another one is near it; and this ratio, 0 where there is no token."""
    winner = np.full(len(reach), UNDECIDED, np.int64)
    largest = np.zeros(len(reach))
    found, start, size = field.at_least(field.bound, reach)
    (some,) = size.nonzero()
    if not len(some):
        return winner, largest
    start, size = start[some], size[some]
    variable = exponential(field.bits[found]).astype(np.float64)
    with np.errstate(divide="ignore"):
        ratio = field.share[found] / (variable * 2.0**_UPPER)
    largest[some] = np.maximum.reduceat(ratio, start)
    (first,) = (ratio == largest[some].repeat(size)).nonzero()
    first = first[first.searchsorted(start)]
    ratio[first] = -1
    apart = np.maximum.reduceat(ratio, start) < largest[some] * (1 - _MARGIN)
    winner[some] = np.where(apart, found[first], UNDECIDED)
    return winner, largest


class _Referee:
    """Whether the filter keeps a token.

    Attributes:
        field: all tokens that it may keep.
        keep: the k largest, which it keeps by rank.
        most: of their sum, so much may lie above a token.
        total: no less than that sum, by row.
    """

    def __init__(self, logits: Floats, bits: Bits, rule: Filter) -> None:
        vocab = logits.shape[1]
        self.keep = min(rule.top_k or vocab, vocab)
        self.most = 1 - float(np.float32(1 - rule.top_p)) if rule.top_p > 0 else np.inf
        self.field = _field(logits, bits, self.keep)
        self.total = np.add.reduceat(self.field.share, self.field.start, dtype=np.float64)

    def decide(self, rows: Integers, field: _Field, winner: Integers) -> tuple[Flags, Flags]:
        """(kept for certain, dropped for certain) of one token in each of some rows.

        Args:
            rows: their numbers.
            field: all their tokens from these on.
            winner: which one; UNDECIDED is neither.
        """
        value, share = field.value[winner], field.share[winner]
        found, start, rank = field.at_least(field.value, value)
        equal = field.value[found] == value.repeat(rank)
        # Of equal ones the order of the sort decides.
        alone = np.add.reduceat(equal, start, dtype=np.int64) == 1
        clear = alone & (winner != UNDECIDED)
        outer = rank > self.keep
        top = np.add.reduceat(field.share[found], start, dtype=np.float64)
        above = top - share
        # Bounds of the sum of the k largest: of the others those left out are the least likely.
        most, count = self.total[rows], self.field.size[rows]
        part = np.clip((self.keep - rank) / np.maximum(count - rank, 1), 0, 1)
        least = top + np.maximum(most - top, 0) * part

        def judged() -> tuple[Flags, Flags]:
            likely = above < (self.most - _MARGIN) * least
            unlikely = above > (self.most + _MARGIN) * most
            return clear & ~outer & (likely | (rank == 1)), clear & (outer | unlikely)

        kept, dropped = judged()
        (unsure,) = (clear & ~kept & ~dropped & (count > self.keep)).nonzero()
        if not len(unsure):
            return kept, dropped
        least[unsure] = most[unsure] = self._sums(rows[unsure])
        return judged()

    def _sums(self, rows: Integers) -> Doubles:
        """The sums of the shares of the k largest tokens of some rows and their equals."""
        start, count = self.field.start[rows, None], self.field.size[rows, None]
        column = np.arange(count.max())
        at = np.minimum(start + column, len(self.field.value) - 1)
        value = np.where(column < count, self.field.value[at], np.float32(-np.inf))
        place = len(column) - self.keep
        least = np.partition(value, place, axis=-1)[:, place, None]
        taken = (value >= least) & (column < count)
        return np.where(taken, self.field.share[at], 0).sum(-1, dtype=np.float64)
