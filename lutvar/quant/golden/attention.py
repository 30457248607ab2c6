# SPDX-License-Identifier: Apache-2.0
"""Attention over records in integers, as ATTEND computes it (contract, section 11)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lutvar.contract import functions
from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import NumberFormat
from lutvar.quant.formats.codec import codec

from .pointwise import Half, fp16

MAX_KEYS = 4095
SCORE_LIMIT = 1 << 18  #: scores are 19-bit two's complement numbers
SUM_BITS = 28  #: the sum of weights is normalised to this many bits
RECIPROCAL_BITS = 43
_BIAS = 25  #: value of an FP16 pattern: `sig * 2**(e - 25)`
#: Scores computed at a time; bounds the int64 temporaries.
_CHUNK_SCORES = 1 << 20

_Ints = NDArray[np.int64]


class Divider(NamedTuple):
    """The format's absolute maximum `M = mu * 2**q`, mu odd, and the least z with 2**z >= mu."""

    mu: int
    q: int
    z: int


def divider(fmt: NumberFormat) -> Divider:
    """Constants of the format's output scaling: (15, 2, 4) for E2M3, (3, 2, 2) for E2M1."""
    top = fmt.scale_top()
    q = (top & -top).bit_length() - 1
    mu = top >> q
    return Divider(mu, q, (mu - 1).bit_length())


def split_fp16(patterns: NDArray[np.uint16]) -> tuple[_Ints, _Ints]:
    """Exponent field (at least 1) and 11-bit significand of nonnegative FP16 patterns."""
    field = patterns.astype(np.int64) >> 10
    fraction = patterns.astype(np.int64) & 1023
    return np.maximum(field, 1), np.where(field > 0, 1024 + fraction, fraction)


def scores(products: _Ints, q_scales: NDArray[np.uint16], k_scales: NDArray[np.uint16]) -> _Ints:
    """`floor(D * s_q * s_k * 2**10 + 1/2)`, saturated, for D [..., n, L] and scale patterns."""
    e_q, sig_q = split_fp16(q_scales)
    e_k, sig_k = split_fp16(k_scales)
    exact = products * sig_q[..., :, None] * sig_k[..., None, :]
    shift = 2 * _BIAS - functions.EXP2_FRACTION - e_q[..., :, None] - e_k[..., None, :]
    # One extra bit keeps the half; |exact| < 2**40 and shift is from -20 to 38.
    rounded = ((exact << np.maximum(1 - shift, 0)) >> np.maximum(shift - 1, 0)) + 1 >> 1
    return np.clip(rounded, -SCORE_LIMIT, SCORE_LIMIT - 1)


def weights(t: _Ints, v_scales: NDArray[np.uint16]) -> tuple[_Ints, _Ints, _Ints]:
    """w [..., n, L], S [..., n] and E [...] of scores [..., n, L] and V scales [..., L]."""
    p = functions.exp2(t.max(-1, keepdims=True) - t)
    e_v, sig_v = split_fp16(v_scales)
    largest = e_v.max(-1)
    shift = 11 + largest[..., None] - e_v
    shift = np.where(shift > 31, 62, shift)[..., None, :]
    return (p * sig_v[..., None, :]) >> shift, p.sum(-1), largest


def reciprocal(total: _Ints, fmt: NumberFormat) -> tuple[_Ints, _Ints]:
    """R and bits(S) of sums S >= 1."""
    mu, _, z = divider(fmt)
    bits = np.frexp(total.astype(np.float64))[1].astype(np.int64)
    return (1 << RECIPROCAL_BITS + z) // (mu * (total << SUM_BITS - bits)), bits


def outputs(a: NDArray[np.float64], total: _Ints, largest: _Ints, fmt: NumberFormat) -> Half:
    """`fp16(A * R * 2**x)` of sums A [..., n, 64] (integers), S [..., n] and E [...]."""
    _, q, z = divider(fmt)
    r, bits = reciprocal(total, fmt)
    exponent = 11 + largest[..., None] - _BIAS - q + (SUM_BITS - bits) - (RECIPROCAL_BITS + z)
    # 34 bits times 17: exact in float64.
    return fp16(np.ldexp(a * r.astype(np.float64)[..., None], exponent[..., None]))


def attend(
    q_codes: NDArray[np.uint8],
    q_scales: NDArray[np.uint16],
    k_codes: NDArray[np.uint8],
    k_scales: NDArray[np.uint16],
    v_codes: NDArray[np.uint8],
    v_scales: NDArray[np.uint16],
    fmt: NumberFormat,
) -> Half:
    """Attention of n query rows over L keys, for any leading shape (heads, sequences).

    Args:
        q_codes, q_scales: [..., n, 64] and [..., n].
        k_codes, k_scales, v_codes, v_scales: [..., L, 64] and [..., L].
        fmt: format of all codes.

    Returns:
        [..., n, 64] FP16.

    Raises:
        ValueError: shapes that do not fit, no keys or more than 4095.
    """
    lead, (n, width), keys = q_codes.shape[:-2], q_codes.shape[-2:], k_codes.shape[-2]
    _check("q", q_codes, q_scales, (*lead, n))
    for name, codes, scale in (("k", k_codes, k_scales), ("v", v_codes, v_scales)):
        _check(name, codes, scale, (*lead, keys))
    if not 1 <= keys <= MAX_KEYS:
        raise ValueError(f"{keys} keys; from 1 to {MAX_KEYS}")
    grid = codec(fmt)
    heads = int(np.prod(lead, dtype=np.int64))
    q, k, v = (
        torch.from_numpy(np.ascontiguousarray(c)).view(heads, -1, width)
        for c in (q_codes, k_codes, v_codes)
    )
    qs, ks, vs = (s.reshape(heads, -1) for s in (q_scales, k_scales, v_scales))
    result = np.empty((heads, n, width), np.float16)
    head_step = max(1, _CHUNK_SCORES // (n * keys))
    row_step = max(1, _CHUNK_SCORES // keys)
    for first in range(0, heads, head_step):
        h = slice(first, first + head_step)
        keys_T, values = grid.grid(k[h]).transpose(1, 2), grid.grid(v[h], torch.float64)
        for row in range(0, n, row_step):
            r = slice(row, row + row_step)
            # Integers below 2**24 (and 2**53 below): exact in any order of summation.
            products = torch.bmm(grid.grid(q[h, r]), keys_T).numpy().astype(np.int64)
            w, total, largest = weights(scores(products, qs[h, r], ks[h]), vs[h])
            a = torch.bmm(torch.from_numpy(w.astype(np.float64)), values).numpy()
            result[h, r] = outputs(a, total, largest, fmt)
    return result.reshape(*lead, n, width)


def _check(name: str, codes: NDArray[Any], scales: NDArray[Any], shape: tuple[int, ...]) -> None:
    if codes.shape != (*shape, HEAD_DIM) or scales.shape != shape:
        raise ValueError(
            f"{name}: codes {codes.shape} and scales {scales.shape}; "
            f"expected {(*shape, HEAD_DIM)} and {shape}"
        )
