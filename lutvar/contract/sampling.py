# SPDX-License-Identifier: Apache-2.0
"""Which tokens a seed draws from logits: the sampler of every host, with numpy alone.

It gives the tokens that PyTorch's `multinomial` draws with a generator of the same seed (one
sample for each row, on a CPU, in the version that the constraints pin): the index of the largest
ratio of probability to an exponential variable, which is -log1p(-u) of 53 bits of the 64 that
MT19937 brings for each value. PyTorch makes all variables and sorts all of a row; here only tokens
that may be drawn cost anything beyond their random bits (`race`), and these can be made while a
device computes the logits (`TokenStream.ahead`).

Two libraries differ in the last bit of an exponential and in the order of equal values, and so may
a token once in millions. `Library` is whose arithmetic decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .race import UNDECIDED, Bits, Filter, exponential, race
from .seeds import check_seed

Floats = NDArray[np.float32]


def softmax(logits: Floats) -> Floats:
    """Probabilities of each row, [n, V]; the largest logit of a row must be finite."""
    shifted = logits - logits.max(-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(-1, keepdims=True)
    return shifted


def argsort(row: Floats) -> NDArray[np.int64]:
    """Where the values of a row are in ascending order, [V]; of equal ones the first in front."""
    return row.argsort(kind="stable")


class Library(NamedTuple):
    """Whose arithmetic decides; see `softmax`, `argsort` and `numpy.log`."""

    softmax: Callable[[Floats], Floats] = softmax
    argsort: Callable[[Floats], NDArray[np.int64]] = argsort
    log: Callable[[Floats], Floats] = np.log


NUMPY = Library()
#: What stands for an exponential variable of 0 where its logarithm is taken.
LEAST_EXPONENTIAL = np.float32(2.0**-54)
_NONE: Bits = np.zeros(0, np.uint64)
_PART = 1 << 16  #: logits that are worked on at a time
_RACE_PART = 1 << 19  #: the same where few of them are looked at closely


class TokenStream:
    """The random stream of one image.

    Args:
        seed: from 0 to `MAX_SEED`.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.RandomState(check_seed(seed))
        self._made = _NONE  # and not used yet
        self._worker: ThreadPoolExecutor | None = None
        self._making: Future[Bits] | None = None

    def ahead(self, count: int) -> None:
        """Begin to make the random bits of the next `count` values in a thread.

        They depend on the seed alone, so that they can be made before there are logits; numpy lets
        other threads run meanwhile. What is drawn stays the same.
        """
        missing = count - len(self._ready())
        if missing > 0:
            self._worker = self._worker or ThreadPoolExecutor(1, "random bits")
            self._making = self._worker.submit(self._new_words, missing)

    def wait(self) -> None:
        """Until the bits that `ahead` began to make are there; a draw waits by itself."""
        self._ready()

    def draw(self, logits: Floats, library: Library = NUMPY) -> NDArray[np.int64]:
        """One token for each row of filtered logits, [n, V] to [n]."""
        tokens = [self._draw(part, library) for part in _parts(logits)]
        return np.concatenate([np.zeros(0, np.int64), *tokens])

    def draw_filtered(
        self, logits: Floats, top_k: int, top_p: float, library: Library = NUMPY
    ) -> NDArray[np.int64]:
        """`draw` from `filter_logits` of logits [n, V] without NaN, in half the time: [n]."""
        few = 0 < top_k < logits.shape[-1]
        parts, rule = _parts(logits, _RACE_PART if few else _RACE_PART // 2), Filter(top_k, top_p)
        tokens = [self._race(part, rule, library) for part in parts]
        return np.concatenate([np.zeros(0, np.int64), *tokens])

    def gumbel(self, logits: Floats, library: Library = NUMPY) -> Floats:
        """Gumbel noise for smooth sampling, [n, V]; 0 where a filtered logit may not be drawn.

        As many bits are used up as by a draw, whatever the logits are.
        """
        noise = [self._gumbel(part, library) for part in _parts(logits)]
        return np.concatenate([logits[:0], *noise])

    def _draw(self, logits: Floats, library: Library) -> NDArray[np.int64]:
        return _winners(logits, self._words(logits.size), library)

    def _race(self, logits: Floats, rule: Filter, library: Library) -> NDArray[np.int64]:
        logits = np.ascontiguousarray(logits, np.float32)
        bits = self._words(logits.size)
        tokens = race(logits, bits, rule)
        rows = np.flatnonzero(tokens == UNDECIDED)
        if len(rows):
            left = filter_logits(logits[rows], *rule, library)
            own = bits.reshape(logits.shape)[rows].reshape(-1)
            tokens[rows] = _winners(left, own, library)
        return tokens

    def _words(self, count: int) -> Bits:
        """The next random bits, 64 for each value."""
        made = self._ready()
        if not len(made):
            return self._new_words(count)
        if len(made) < count:
            made = np.concatenate([made, self._new_words(count - len(made))])
        # An empty view would keep all of it in memory.
        self._made = made[count:] if len(made) > count else _NONE
        return made[:count]

    def _ready(self) -> Bits:
        """What has been made ahead."""
        if self._making is not None:
            new, self._making = self._making.result(), None
            self._made = np.concatenate([self._made, new]) if len(self._made) else new
        return self._made

    def _new_words(self, count: int) -> Bits:
        """Of two words of MT19937 the first is the upper one."""
        return self._bits.randint(0, 1 << 64, count, np.uint64)

    def _gumbel(self, logits: Floats, library: Library) -> Floats:
        noise = np.zeros(logits.size, np.float32)
        possible = np.flatnonzero(logits.reshape(-1) > -np.inf)
        # A variable of 0 would make the noise infinite, and with it the sum of a softmax.
        variable = exponential(self._words(logits.size)[possible])
        variable = np.maximum(variable, LEAST_EXPONENTIAL)
        noise[possible] = -library.log(variable)
        return noise.reshape(logits.shape)


def _winners(logits: Floats, bits: Bits, library: Library) -> NDArray[np.int64]:
    """The tokens of rows of filtered logits [n, V] with random bits [n * V]."""
    ratios = library.softmax(logits).reshape(-1)
    likely = np.flatnonzero(ratios != 0)  # of flags: ten times faster than of floats
    with np.errstate(divide="ignore"):  # a variable of 0 wins, as it should
        ratios[likely] /= exponential(bits[likely])
    return ratios.reshape(logits.shape).argmax(-1)


def _parts(logits: Floats, size: int = _PART) -> Iterator[Floats]:
    """Rows that the processor's cache holds at a time."""
    rows = max(1, size // logits.shape[-1])
    for first in range(0, len(logits), rows):
        yield logits[first : first + rows]


def filter_logits(logits: Floats, top_k: int, top_p: float, library: Library = NUMPY) -> Floats:
    """Set the logits that may not be drawn to -inf; the input is left as it is.

    Args:
        logits: [n, V], no NaN.
        top_k: keep the k largest of a row and all that tie with the k-th; 0: all.
        top_p: then drop the least likely ones whose probabilities add up to at most 1 - top_p,
            never the most likely one. 0: none.
        library: whose arithmetic decides.
    """
    logits = np.ascontiguousarray(logits, np.float32)
    left = np.empty_like(logits)
    for part, out in zip(_parts(logits), _parts(left), strict=True):
        _filter(part, top_k, top_p, library, out)
    return left


def _filter(logits: Floats, top_k: int, top_p: float, library: Library, out: Floats) -> None:
    count, vocab = logits.shape
    keep = min(top_k or vocab, vocab)
    above = vocab - keep
    if above:
        ascending = np.partition(logits, above, axis=-1)
        least = ascending[:, above].copy()
        # Of rows where more tie with the k-th, the upper part has not all.
        more = np.flatnonzero(ascending[:, :above].max(-1) == least)
    else:
        ascending, more = logits.copy(), np.arange(0)
        least = np.full(count, -np.inf, np.float32)
    if not top_p > 0:
        _keep(logits, logits >= least[:, None], out)
        return
    ascending[:, above:].sort(axis=-1)
    ascending[:, :above] = -np.inf
    for row in more:
        ascending[row] = np.sort(np.where(logits[row] >= least[row], logits[row], -np.inf))
    # Zeros in front add nothing: only rows with more than k values need all columns.
    first = 0 if len(more) else above
    shares = library.softmax(ascending)[:, first:]
    limit = np.float32(1 - top_p)
    drop = np.cumsum(shares, axis=-1, dtype=np.float64).astype(np.float32) <= limit
    dropped = np.minimum(drop.sum(-1), vocab - first - 1) + first
    index = np.arange(count)
    cut = ascending[index, dropped]
    kept = logits >= np.maximum(least, cut)[:, None]
    # Values equal to the first one kept that are dropped themselves: the sort decides which.
    split = (dropped > 0) & (ascending[index, dropped - 1] == cut) & np.isfinite(cut)
    for i in np.flatnonzero(split):
        largest = logits[i] >= least[i]
        order = library.argsort(np.where(largest, logits[i], np.float32(-np.inf)))
        kept[i, order[: dropped[i]]] = False
    _keep(logits, kept, out)


#: The bits of -inf.
_INFINITE = np.float32(-np.inf).view(np.int32)


def _keep(logits: Floats, kept: NDArray[np.bool_], out: Floats) -> None:
    """-inf where `kept` is False: `np.where` with a number takes twice the time of masks."""
    mask = np.negative(kept.view(np.int8)).astype(np.int32)
    bits = out.view(np.int32)
    np.bitwise_and(logits.view(np.int32), mask, out=bits)
    bits |= ~mask & _INFINITE
