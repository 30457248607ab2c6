# SPDX-License-Identifier: Apache-2.0
"""Attention of the golden model against big integers and against a float64 softmax."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lutvar.contract import functions
from lutvar.contract.formats import NumberFormat, get_format
from lutvar.quant.formats.codec import codec
from lutvar.quant.golden import attention
from lutvar.quant.golden.attention import attend, divider, reciprocal, scores
from lutvar.quant.golden.pointwise import Records, records
from support.quant import unit_reference as unit

CACHE_FORMATS = ("E2M1", "E2M3")


def made(
    fmt: NumberFormat, rows: int, keys: int, seed: int, kappa: float = 5.77, lead: int = 1
) -> tuple[Records, Records, Records]:
    """Records of random heads; q and k correlate, so that the weights differ."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((lead, n, 64)).astype(np.float32) for n in (rows, keys, keys))
    q[:, 0] = k[:, 0]
    v *= np.exp2(rng.uniform(-14, 4, (lead, keys, 1))).astype(np.float32)
    return records(q, fmt, "q", np.float16(kappa)), records(k, fmt, "k"), records(v, fmt, "v")


def same_as_reference(q: Records, k: Records, v: Records, fmt: NumberFormat) -> NDArray[np.float16]:
    found = attend(*q, *k, *v, fmt)

    def split(r: Records, h: int) -> list[tuple[list[int], int]]:
        return [(c.tolist(), int(s)) for c, s in zip(r.codes[h], r.scales[h], strict=True)]

    for h in range(found.shape[0]):
        for query, row in zip(split(q, h), found[h], strict=True):
            expected = unit.attend(query, split(k, h), split(v, h), fmt)
            np.testing.assert_array_equal(row, np.array(expected, np.uint16).view(np.float16))
    return found


@pytest.mark.parametrize("name", CACHE_FORMATS)
@pytest.mark.parametrize("keys", [1, 2, 33])
@pytest.mark.parametrize("kappa", [0.25, 5.77, 144.25])
def test_equals_big_integers(name: str, keys: int, kappa: float) -> None:
    fmt = get_format(name)
    same_as_reference(*made(fmt, 3, keys, keys, kappa, lead=2), fmt)


@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_boundaries(name: str) -> None:
    fmt = get_format(name)
    q, k, v = made(fmt, 4, 40, 7)
    # Scales far apart and far out: saturated scores, vanishing weights, zero groups.
    q.scales[0] = [0x0000, 0x0001, 0x7BFF, 0x3C00]
    k.scales[0, :6] = [0x7BFF, 0x7BFF, 0x0000, 0x0001, 0x5800, 0x2C00]
    v.scales[0, :7] = [0x7BFF, 0x0400, 0x0000, 0x0401, 0x7800, 0x3C00, 0x0800]
    same_as_reference(q, k, v, fmt)
    v.scales[:] = 0
    v.codes[:] = 0
    assert not attend(*q, *k, *v, fmt).view(np.uint16).any()
    v.scales[0, 5] = 0x0400
    v.codes[0, 5] = fmt.encode_int(fmt.positive.top, True)
    same_as_reference(q, k, v, fmt)


def test_largest_sums() -> None:
    """As many equal keys as possible, all codes at the maximum: A takes all its bits."""
    fmt = get_format("E2M3")
    top = fmt.encode_int(60, True)
    codes = np.full((1, 4095, 64), top, np.uint8)
    scales = np.full((1, 4095), 0x7BFF, np.uint16)
    ones = np.full((1, 4095), 0x1C44, np.uint16)
    found = attend(codes[:, :2], ones[:, :2], codes, ones, codes, scales, fmt)
    # Weights (2**15 * 2047) >> 11 are 16 low of 2**15 * 2047 / 2048: exact here.
    assert np.unique(found).tolist() == [-65504.0]
    with pytest.raises(ValueError, match="4096 keys; from 1 to 4095"):
        more = np.zeros((1, 4096, 64), np.uint8), np.zeros((1, 4096), np.uint16)
        attend(codes[:, :2], ones[:, :2], *more, *more, fmt)


def test_scores_round_half_up_and_saturate() -> None:
    rng = np.random.default_rng(8)
    d = rng.integers(-230400, 230401, (1, 60, 60))
    s_q, s_k = (rng.integers(0, 0x7C00, (1, 60), dtype=np.uint16) for _ in range(2))
    s_q[0, :2], s_k[0, :2] = (0x1000, 0x0001), (0x0800, 0x0001)
    d[0, 0, 0], d[0, 0, 1] = 1 << 16, -(1 << 17)
    found = scores(d, s_q, s_k)
    for i in range(60):
        for j in range(60):
            assert found[0, i, j] == unit.score(int(d[0, i, j]), int(s_q[0, i]), int(s_k[0, j]))
    # Ties of +-1/2 of a step go up.
    one, tie = np.array([[0x3C00] * 2], np.uint16), np.array([[0x1000]], np.uint16)
    assert scores(np.array([[[1, -1]]]), tie, one).tolist() == [[[1, 0]]]
    assert found.min() == -(2**18) and found.max() == 2**18 - 1


def test_reciprocal_is_the_floor_and_fits_17_bits() -> None:
    total = np.unique(np.geomspace(1 << 15, 4095 << 15, 5000).astype(np.int64))
    for name, constants in (("E2M3", (15, 2, 4)), ("E2M1", (3, 2, 2))):
        fmt = get_format(name)
        assert divider(fmt) == constants
        r, bits = reciprocal(total, fmt)
        mu, _, z = constants
        assert r.max() < 1 << 17
        for s, found, n in zip(total.tolist(), r.tolist(), bits.tolist(), strict=True):
            assert n == s.bit_length()
            assert found == 2 ** (43 + z) // (mu * (s << (28 - n)))


def test_exp2_error_bound() -> None:
    d = np.arange(1 << 16)
    error = np.abs(functions.exp2(d) * 2.0**-15 - 2.0 ** (-d / 1024)).max()
    assert 0.99 * 2.0**-15 < error < 1.25 * 2.0**-15
    for distance in (0, 1, 1023, 1024, 16 * 1024 - 1, 16 * 1024, 2**19):
        expected = unit._exp2_point(distance % 1024) >> distance // 1024
        assert functions.exp2(np.array([distance]))[0] == expected


def float_attention(q: Records, k: Records, v: Records, fmt: NumberFormat) -> NDArray[np.float64]:
    def value(r: Records) -> NDArray[np.float64]:
        grid = codec(fmt).grid(torch.from_numpy(r.codes), torch.float64).numpy()
        return grid * r.scales.view(np.float16).astype(np.float64)[..., None]

    s = value(q) @ value(k).swapaxes(-1, -2)
    p = np.exp2(s - s.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True) @ value(v) / fmt.scale_top()


@pytest.mark.parametrize("name", CACHE_FORMATS)
@pytest.mark.parametrize("keys", [30, 680, 2240])
def test_error_against_float64(name: str, keys: int) -> None:
    fmt = get_format(name)
    rng = np.random.default_rng(9)
    q, k, v = (rng.standard_normal((2, n, 64)).astype(np.float32) for n in (16, keys, keys))
    parts = records(q, fmt, "q", np.float16(20)), records(k, fmt, "k"), records(v, fmt, "v")
    exact = float_attention(*parts, fmt)
    error = np.abs(attend(*parts[0], *parts[1], *parts[2], fmt) - exact).max()
    largest = float(parts[2].scales.view(np.float16).max())
    assert error < 1e-3 * largest


def test_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    fmt = get_format("E2M3")
    parts = made(fmt, 19, 50, 10, lead=6)
    leading = [Records(r.codes.reshape(2, 3, -1, 64), r.scales.reshape(2, 3, -1)) for r in parts]
    whole = attend(*leading[0], *leading[1], *leading[2], fmt)
    assert whole.shape == (2, 3, 19, 64)
    monkeypatch.setattr(attention, "_CHUNK_SCORES", 7 * 50)
    pieces = attend(*parts[0], *parts[1], *parts[2], fmt)
    np.testing.assert_array_equal(
        pieces.reshape(whole.shape).view(np.uint16), whole.view(np.uint16)
    )


def test_refuses_shapes_that_do_not_fit() -> None:
    fmt = get_format("E2M3")
    q, k, v = made(fmt, 3, 5, 11)
    with pytest.raises(ValueError, match=r"v: codes \(1, 4, 64\) and scales \(1, 5\)"):
        attend(*q, *k, v.codes[:, 1:], v.scales, fmt)
