# SPDX-License-Identifier: Apache-2.0
"""Code-level encoding and decoding: a scalar reference and the vectorised torch form.

The scalar functions work on fractions and look at every level. The torch form reduces a value
to its *doubled position* `2 y` (y counts grid steps of the value's half), in which every
decision point is an integer. `floor(2y) + ceil(2y)` then tells the interval between two
integers or the integer itself, and one table lookup gives the code, ties included. The table
is built with the scalar reference. Formats with a huge range (8-bit floats, used for scales)
search a list of thresholds instead.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

from lutvar.contract.formats.spec import NumberFormat
from lutvar.contract.formats.ties import TieRule, nearest_rank, tie_goes_out

#: Largest decision table, in entries; formats that would need more search thresholds.
_TABLE_LIMIT = 1 << 14


def encode_scalar(value: Fraction, fmt: NumberFormat, ties: TieRule = TieRule.EVEN) -> int:
    """Code nearest to an unscaled value; saturates at the largest magnitude. Slow reference."""
    negative = value < 0
    half = fmt.half(negative)
    rank = nearest_rank(half.levels, abs(value) / half.unit, ties, negative)
    return fmt.encode_int(half.levels[rank], negative)


def decode_scalar(code: int, fmt: NumberFormat) -> Fraction:
    """Unscaled value of a code; raises ValueError for a reserved one (NaN, infinity)."""
    value = fmt.decode(code)
    if value is None:
        raise ValueError(f"{fmt.name}: code {code:#x} is reserved, it has no value")
    return value


def decision_table(fmt: NumberFormat, ties: TieRule) -> tuple[tuple[int, ...], int]:
    """Codes by `h = floor(2y) + ceil(2y)`, and the position of `h = 0` in the list.

    y is the signed position in grid steps of the half that its sign selects. An even h is the
    exact position `h / 4`; an odd one stands for the open interval around `h / 4`, in which
    no decision point lies.
    """
    reach = {n: 4 * fmt.half(n).top for n in (False, True)}
    quadrupled = {n: [4 * level for level in fmt.half(n).levels] for n in (False, True)}
    codes = []
    for h in range(-reach[True], reach[False] + 1):
        negative = h < 0
        rank = nearest_rank(quadrupled[negative], abs(h), ties, negative)
        codes.append(fmt.encode_int(fmt.half(negative).levels[rank], negative))
    return tuple(codes), reach[True]


class TensorCodec:
    """Vectorised encoder and decoder of one format under one tie rule.

    Get it from `codec`, which caches one for each pair. Tensors of any shape, on any device.

    Attributes:
        grid_values: signed grid integer of each code, float64; NaN for reserved codes.
        values: the same times the half's unit.
    """

    def __init__(self, fmt: NumberFormat, ties: TieRule) -> None:
        self.format, self.ties = fmt, ties
        integers = [fmt.decode_int(code) for code in range(fmt.code_count)]
        self.grid_values = torch.tensor(
            [float("nan") if i is None else float(i) for i in integers], dtype=torch.float64
        )
        units = torch.full((fmt.code_count,), float(fmt.positive.unit), dtype=torch.float64)
        units[fmt.sign_bit :] = float(fmt.negative.unit)
        self.values = self.grid_values * units
        self._limits = (-2 * fmt.negative.top, 2 * fmt.positive.top)
        self._uses_table = 2 * (self._limits[1] - self._limits[0]) < _TABLE_LIMIT
        if self._uses_table:
            codes, self._origin = decision_table(fmt, ties)
            self._codes = torch.tensor(codes, dtype=torch.uint8)
        else:
            self._bounds, self._codes = _search_list(fmt, ties)

    def encode_doubled(self, doubled: Tensor) -> Tensor:
        """Codes (uint8) of doubled positions `2 y`; positions past the ends saturate.

        The position must be exact where it is an integer, and on the right side of every
        integer elsewhere; `doubled_position` gives such values.
        """
        if not self._uses_table:
            index = torch.bucketize(doubled.double(), self._bounds.to(doubled.device), right=True)
            return _look_up(self._codes, index)
        low, high = self._limits
        clamped = doubled.clamp(low, high)
        index = (clamped.floor() + clamped.ceil_()).to(torch.int32).add_(self._origin)
        return _look_up(self._codes, index)

    def encode(self, x: Tensor) -> Tensor:
        """Codes (uint8) of unscaled values (float16, bfloat16, float32 or float64)."""
        x = x.double()
        positive, negative = 2 / self.format.positive.unit, 2 / self.format.negative.unit
        # A power of two, so that the product is exact.
        factor = float(positive)
        if positive != negative:
            return self.encode_doubled(x * torch.where(x < 0, float(negative), factor))
        return self.encode_doubled(x * factor)

    def decode(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Unscaled values of codes; reserved codes give NaN."""
        return _look_up(self.values.to(dtype), codes.int())

    def grid(self, codes: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Signed grid integers of codes, as floating point; reserved codes give NaN."""
        return _look_up(self.grid_values.to(dtype), codes.int())


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """`table[index]` in the shape and on the device of the index; several times as fast."""
    entries = table.to(index.device).index_select(0, index.reshape(-1))
    return entries.reshape(index.shape)


@cache
def codec(fmt: NumberFormat, ties: TieRule = TieRule.EVEN) -> TensorCodec:
    """The codec of a format and tie rule, built once."""
    for half in (fmt.positive, fmt.negative):
        top, bottom = half.unit.numerator, half.unit.denominator
        if top & (top - 1) or bottom & (bottom - 1):
            raise ValueError(
                f"{fmt.name}: unit {half.unit} is not a power of two, so values cannot be turned "
                "into grid positions exactly; choose such a unit (a scale absorbs the factor)"
            )
    return TensorCodec(fmt, ties)


def doubled_position(x: Tensor, numerator: Tensor | float, denominator: Tensor | float) -> Tensor:
    """`2 y = x * numerator / denominator` in x's dtype, safe to compare with integers.

    Let x have p significant bits, the numerator k (trailing zeros not counted), the denominator
    q. As a ratio of integers, the quotient equals an integer T < 2**b or differs from it by
    more than `2**-max(p + k, q + b)` of T. The product is exact where p + k bits fit the
    significand, and division rounds correctly, so with more significand bits than that bound
    the result is T only if the quotient is T, and never on T's other side. This holds in
    float32 for FP16 values, FP16 denominators and numerators below 1,024 (21 bits), and in
    float64 for everything the scale rules produce (at most 52 bits).

    Args:
        x: values, any shape.
        numerator: twice the grid integer that `denominator` maps to, at least 1.
        denominator: positive; infinity makes the position zero. Broadcast against x.
    """
    return (x * numerator).div_(denominator)


def _search_list(fmt: NumberFormat, ties: TieRule) -> tuple[Tensor, Tensor]:
    """Ascending doubled decision points (float64), and the codes of the intervals between them.

    A point that belongs to the interval below it is moved up by one float64 step, so that
    "count of points <= 2y" is the interval under every tie rule.
    """
    points: list[tuple[float, bool]] = []
    codes: list[int] = []
    for negative in (True, False):
        levels = fmt.half(negative).levels
        ranks = range(len(levels) - 1)
        for rank in reversed(ranks) if negative else ranks:
            point = float(levels[rank] + levels[rank + 1])
            out = tie_goes_out(ties, negative, rank)
            points.append((-point, out) if negative else (point, not out))
            codes.append(fmt.encode_int(levels[rank + 1], negative))
        if negative:
            codes.append(0)
    exact = torch.tensor([p for p, _ in points], dtype=torch.float64)
    moved = torch.nextafter(exact, torch.tensor(torch.inf, dtype=torch.float64))
    stays_below = torch.tensor([below for _, below in points])
    return torch.where(stays_below, moved, exact), torch.tensor(codes, dtype=torch.uint8)
