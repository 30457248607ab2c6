# SPDX-License-Identifier: Apache-2.0
"""Fake quantizers in float32: every format, group size and scale rule, fast enough for a forward.

The grid comes from the number format of the catalogue; the arithmetic is float32 (float64 for
float64 values, which comparisons with other implementations use), so a value within rounding error
of a tie may fall on the other side than in `formats.quantize`, which decides exactly and is what
codes are made with. `exact_rule` uses that one instead. Rule `fpqvar` is float32 arithmetic itself
and needs no other: only its ties, towards plus infinity, differ from the others'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from lutvar.contract.formats import HalfGrid, get_format
from lutvar.quant.formats.grouping import Granularity, group, tensor, token
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.formats.scales import SCALE_RULES, ScaleRule

from .percentiles import percentile_range
from .spec import QuantizerSpec, ScaleType, Sharing, ZeroRule

_FP16_MAX = float(torch.finfo(torch.float16).max)


@cache
def _largest_scale(top: int) -> float:
    """The largest scale whose product with `top` is finite in float32."""
    largest = float(torch.finfo(torch.float32).max)
    scale = torch.tensor(largest / top, dtype=torch.float32)
    if float(scale) * top > largest:
        scale = torch.nextafter(scale, torch.zeros_like(scale))
    return float(scale)


class Scales(NamedTuple):
    """Scales of all blocks, [..., G, 1].

    Attributes:
        positive: the scale (value of one grid step); of positive numbers where `negative` is given.
        negative: of negative numbers, or None for the same.
        zero_point: code of 0, x = (q - zero_point) * scale; None where 0 is the code 0.
        amax: absolute maximum that `positive` was computed from, where a recipe's step keeps it:
            the accelerator's scales are rounded from this one.
    """

    positive: Tensor
    negative: Tensor | None = None
    zero_point: Tensor | None = None
    amax: Tensor | None = None

    def each(self, function: Callable[[Tensor], Tensor]) -> Scales:
        """Apply a function to every tensor that is present."""
        rest = (None if s is None else function(s) for s in self[1:])
        return Scales(function(self.positive), *rest)


@dataclass(frozen=True)
class _Half:
    """A grid of whole numbers 0..2**(m+1)-1, then 2**m codes for each doubling, up to `top`."""

    mantissa: int
    top: int

    @classmethod
    def of(cls, half: HalfGrid, largest: int) -> _Half:
        levels = [m for m in half.levels if m <= largest]
        count = next((i for i, m in enumerate(levels) if m != i), len(levels))
        mantissa = max(count.bit_length() - 2, 0) if count < len(levels) else 30
        grid = cls(mantissa, largest)
        reached = grid.round(torch.tensor(levels, dtype=torch.float32))
        if reached.tolist() != levels:
            raise ValueError(f"grid {levels[:12]}... is neither uniform nor a small float")
        return grid

    def _step(self, n: Tensor) -> Tensor:
        if n.dtype == torch.float64:
            exponent = (n.view(torch.int64) >> 52) - (1023 + self.mantissa)
            return ((exponent.clamp_min(0) + 1023) << 52).view(torch.float64)
        exponent = (n.view(torch.int32) >> 23) - (127 + self.mantissa)
        return ((exponent.clamp_min(0) + 127) << 23).view(torch.float32)

    def round(self, n: Tensor, ties_out: Tensor | bool | None = None) -> Tensor:
        """Nearest level of magnitudes n >= 0.

        Ties go to the even multiple of the local step, or, where `ties_out` is given, to the larger
        magnitude where it is true and to the smaller one elsewhere.
        """
        step = self._step(n) if self.mantissa < 24 else torch.ones_like(n)
        place = n / step  # exact: steps are powers of two
        if ties_out is None:
            whole = torch.round(place)
        else:
            whole = torch.floor(place)
            rest = place - whole
            whole = whole + ((rest > 0.5) | ((rest == 0.5) & ties_out))
        return (whole * step).clamp_max(self.top)

    def below(self, n: Tensor) -> Tensor:
        """Largest level not above n >= 0."""
        step = self._step(n) if self.mantissa < 24 else torch.ones_like(n)
        return (torch.floor(n / step) * step).clamp_max(self.top)

    def above(self, n: Tensor) -> Tensor:
        """Smallest level above `below`, or the top."""
        low = self.below(n)
        step = self._step(low) if self.mantissa < 24 else torch.ones_like(n)
        return (low + step).clamp_max(self.top)


class FakeQuantizer:
    """Quantizes and dequantizes along the last axis; see `QuantizerSpec`.

    Args:
        spec: format, groups, scales.
        terms: 1, or 2 for sums of two codes with scales of their own: the second quantizes what the
            first leaves. Only calls know of it; all other methods are those of one code.
    """

    def __init__(self, spec: QuantizerSpec, terms: int = 1) -> None:
        self.spec, self.format, self.terms = spec, get_format(spec.format), terms
        self.bits = float(spec.bits)
        fmt, self._ties_up = self.format, spec.exact_rule == ScaleRule.FPQVAR
        self._positive = _Half.of(fmt.positive, fmt.scale_top())
        self._negative = _Half.of(fmt.negative, fmt.scale_top(True)) if fmt.dual else self._positive

    def __repr__(self) -> str:
        terms = "" if self.terms == 1 else f", terms={self.terms}"
        return f"FakeQuantizer({self.spec!r}{terms})"

    @property
    def two_sided(self) -> bool:
        """Each sign has a scale of its own."""
        return self.spec.two_sided

    def blocks(self, x: Tensor) -> Tensor:
        """[..., I] to [..., G, values of a block] (a view where possible)."""
        if self.spec.group == Sharing.TENSOR:
            return x.reshape(1, -1)
        if self.spec.group == Sharing.ROW:
            return x.unsqueeze(-2)
        size = self.spec.group
        if x.shape[-1] % size:
            raise ValueError(
                f"rows of {x.shape[-1]} values do not divide into groups of {size}; "
                "choose a divisor or group: row"
            )
        return x.unflatten(-1, (-1, size))

    def scales(
        self,
        x: Tensor,
        clip_high: Tensor | float | None = None,
        clip_low: Tensor | float | None = None,
    ) -> Scales:
        """Scales of [..., I] float32 from its own extremes.

        Args:
            x: the values.
            clip_high: factor of the maximum, a number or one for each block [..., G, 1]; default
                the spec's `clip`. Gradients flow to it (straight through roundings).
            clip_low: factor of the minimum; default as `clip_high`. One-sided scales use
                `clip_high` alone.
        """
        blocks = self.blocks(x)
        above = self.spec.clip if clip_high is None else clip_high
        below = above if clip_low is None else clip_low
        if self.spec.percentile:
            scale, zero_point = percentile_range(blocks.detach().flatten(0, -2), self.spec.bits)
            shape = (*blocks.shape[:-1], 1)
            return Scales(scale.view(shape), None, zero_point.view(shape))
        if self.spec.asymmetric:
            low, high = torch.aminmax(blocks, dim=-1, keepdim=True)
            if self.spec.zero == ZeroRule.WIDEN:
                low, high = low.clamp_max(0), high.clamp_min(0)
            low, high = low * below, high * above
            scale = ((high - low) / (2**self.spec.bits - 1)).clamp_min(self.spec.floor)
            scale = scale.clamp_max(_largest_scale(2 ** (self.spec.bits - 1)))
            scale = torch.where(scale == 0, 1.0, scale)
            lowest = low / scale  # code 0 stands for this multiple of the scale, rounded
            zero_point = -(lowest + (torch.round(lowest) - lowest).detach())
            if self.spec.zero == ZeroRule.CLAMP:
                zero_point = zero_point.clamp(0, 2**self.spec.bits - 1)
            return Scales(scale, None, zero_point)
        if self.two_sided:
            low, high = torch.aminmax(blocks, dim=-1, keepdim=True)
            return Scales(
                self._stored(high.clamp_min(0) * above, False),
                self._stored(low.clamp_max(0).neg() * below, True),
            )
        return Scales(self._stored(blocks.abs().amax(-1, keepdim=True) * above, False))

    def _stored(self, amax: Tensor, negative: bool) -> Tensor:
        """Scales of blocks with an absolute maximum of `amax`, rounded as `ScaleType` says.

        A scale that its type cannot hold, or whose grid ends past float32, is the largest possible:
        the values beyond saturate.
        """
        fmt, kind = self.format, self.spec.scale
        if kind == ScaleType.FP32:
            scale = amax / fmt.scale_top(negative)
        elif kind == ScaleType.FP16:
            scale = (amax / fmt.scale_top(negative)).clamp_max(_FP16_MAX).half().float()
        else:
            # The rules of MX and NVFP4 are those of `formats.scales`.
            method = SCALE_RULES[ScaleRule.POW2 if kind == ScaleType.POW2 else ScaleRule.E4M3]
            scaling = method.compute(amax.detach(), fmt, negative)
            scale = scaling.stored.float() * (scaling.unit / scaling.divisor)
            if amax.requires_grad:
                exact = amax / fmt.scale_top(negative)
                scale = exact + (scale - exact).detach()
        scale = scale.clamp_max(_largest_scale(fmt.scale_top(negative)))
        scale = scale.clamp_min(self.spec.floor) if self.spec.floor else scale
        return torch.where(scale == 0, 1.0, scale)

    def apply(self, x: Tensor, scales: Scales) -> Tensor:
        """Fake-quantize [..., I] with given scales (of the same shape as `scales` would give)."""
        y = self._apply(self.blocks(x), scales).reshape(x.shape)
        return y.half().to(x.dtype) if self.spec.half else y

    def _apply(self, blocks: Tensor, scales: Scales) -> Tensor:
        if scales.zero_point is not None:
            levels = 2**self.spec.bits - 1
            q = torch.round(blocks / scales.positive).add_(scales.zero_point).clamp_(0, levels)
            return (q - scales.zero_point) * scales.positive
        if scales.negative is None:
            n = blocks / scales.positive
            q = torch.copysign(self._nearest(self._positive, n.abs(), blocks > 0), n)
            return q * scales.positive
        n = blocks.clamp_min(0) / scales.positive
        positive = self._nearest(self._positive, n, True) * scales.positive
        n = blocks.clamp_max(0).neg_() / scales.negative
        return positive - self._nearest(self._negative, n, False) * scales.negative

    def _nearest(self, half: _Half, n: Tensor, positive: Tensor | bool) -> Tensor:
        """Levels of magnitudes n; under rule fpqvar n counts as float32 and ties go upward."""
        return half.round(n.float(), positive) if self._ties_up else half.round(n)

    def neighbours(self, x: Tensor, scales: Scales) -> tuple[Tensor, Tensor]:
        """The grid points just below (or at) and above each value, towards minus and plus infinity.

        At the ends of the grid both are the end. For learned rounding.
        """
        blocks = self.blocks(x)
        if scales.zero_point is not None:
            levels = 2**self.spec.bits - 1
            low = torch.floor(blocks / scales.positive) + scales.zero_point
            pair = (low.clamp(0, levels), (low + 1).clamp(0, levels))
            down, up = ((q - scales.zero_point) * scales.positive for q in pair)
            return down.reshape(x.shape), up.reshape(x.shape)
        neg_scale = scales.positive if scales.negative is None else scales.negative
        n = blocks.clamp_min(0) / scales.positive
        m = blocks.clamp_max(0).neg() / neg_scale
        is_negative = blocks < 0
        down = torch.where(
            is_negative,
            -self._negative.above(m) * neg_scale,
            self._positive.below(n) * scales.positive,
        )
        up = torch.where(
            is_negative,
            -self._negative.below(m) * neg_scale,
            self._positive.above(n) * scales.positive,
        )
        return down.reshape(x.shape), up.reshape(x.shape)

    def __call__(self, x: Tensor, scale_index: int = 0) -> Tensor:
        """Fake-quantize [..., I] with its own scales; the scale step does not matter here."""
        y = self.one(x)
        return y if self.terms == 1 else y + self.one(x - y)

    def one(self, x: Tensor) -> Tensor:
        """Fake-quantize [..., I] to one code with its own scales."""
        if self.spec.exact_rule is None or self._ties_up:
            return self.apply(x, self.scales(x))
        y = quantize(x, self.format, _granularity(self.spec), self.spec.exact_rule).dequantize()
        return y.half().to(x.dtype) if self.spec.half else y


def _granularity(spec: QuantizerSpec) -> Granularity:
    if isinstance(spec.group, int):
        return group(spec.group)
    return token() if spec.group == Sharing.ROW else tensor()
