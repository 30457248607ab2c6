# SPDX-License-Identifier: Apache-2.0
"""Stream packing: round trips, and the byte positions that the layout's text promises."""

from __future__ import annotations

import numpy as np
import pytest
from host_cases import packed, random_layer, tiny

from lutvar.contract.bits import pack_codes, unpack_codes
from lutvar.contract.config import GROUP
from lutvar.contract.layout import StreamLayout
from lutvar.host import BadInput
from lutvar.host.packing import (
    pack_activations,
    pack_weights,
    to_fp16,
    unpack_dump,
    unpack_results,
)

SIZES = [
    {"token_rows": 2, "outputs": 4, "stream_bytes": 32},
    {"token_rows": 1, "outputs": 8, "stream_bytes": 32},
    {"token_rows": 2, "outputs": 16, "stream_bytes": 64},
    {"token_rows": 16, "outputs": 6, "stream_bytes": 64},  # sections that do not fill a beat
]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_codes_are_a_little_endian_bit_string(bits: int) -> None:
    codes = np.random.default_rng(1).integers(0, 1 << bits, (3, 2, 128), dtype=np.uint8)
    packed_codes = pack_codes(codes, bits)
    for index in np.ndindex(3, 2):
        whole = int.from_bytes(packed_codes[index].tobytes(), "little")
        assert [whole >> i * bits & ((1 << bits) - 1) for i in range(128)] == codes[index].tolist()
    assert np.array_equal(unpack_codes(packed_codes, bits), codes)


def test_a_code_too_wide_is_refused() -> None:
    with pytest.raises(ValueError, match="16 does not fit 4 bits"):
        pack_codes(np.full(8, 16, np.uint8), 4)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("quant", ["fp4", "fp6"])
@pytest.mark.parametrize("outputs", [1, 12, 17])
def test_weights_round_trip(quant: str, sizes: dict[str, int], outputs: int) -> None:
    hardware, preset = tiny(quant, **sizes)
    layout = StreamLayout.of(hardware, preset)
    layer = random_layer(np.random.default_rng(outputs), preset, outputs, groups=3)
    linear = packed(layer, hardware, preset)
    assert linear.tiles(layout) * hardware.outputs >= outputs
    codes, scales, bias = linear.unpack(layout)
    assert np.array_equal(codes, layer.codes)
    assert np.array_equal(scales, layer.scales)
    assert np.array_equal(bias, layer.bias)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("quant", ["fp4", "fp6"])
def test_weight_sections_lie_where_the_layout_says(quant: str, sizes: dict[str, int]) -> None:
    hardware, preset = tiny(quant, **sizes)
    layout, size = StreamLayout.of(hardware, preset), hardware.stream_bytes
    n, bits = hardware.outputs, preset.code_bits
    layer = random_layer(np.random.default_rng(2), preset, n + 1, groups=2)
    stream = packed(layer, hardware, preset).stream
    at = 0

    def section(data: bytes) -> bytes:
        nonlocal at
        beats = -(-len(data) // size)
        found = stream[at * size : (at + beats) * size].tobytes()
        at += beats
        assert found[len(data) :] == bytes(beats * size - len(data)), "padding is not zero"
        return found[: len(data)]

    for tile in range(2):
        rows = range(tile * n, tile * n + n)
        real = [r for r in rows if r < n + 1]
        bias = np.array([layer.bias[r] if r in real else 0 for r in rows], "<f4").tobytes()
        assert section(bias) == bias
        for g in range(2):
            scales = np.array(
                [layer.scales[r, g] if r in real else 0 for r in rows], "<u2"
            ).tobytes()
            assert section(scales) == scales
            word = 0
            for position, r in enumerate(rows):
                for k in range(GROUP):
                    code = int(layer.codes[r, g * GROUP + k]) if r in real else 0
                    word |= code << bits * (position * GROUP + k)
            codes = word.to_bytes(n * GROUP * bits // 8, "little")
            assert section(codes) == codes
    assert at * size == len(stream) == layout.wgt_beats(2, 2) * size


def test_shapes_that_do_not_fit_are_refused() -> None:
    hardware, preset = tiny()
    layer = random_layer(np.random.default_rng(0), preset, 4, groups=2)
    layout = StreamLayout.of(hardware, preset)
    with pytest.raises(ValueError, match="do not fit"):
        pack_weights(layer.codes[:, :200], layer.scales, layer.bias, layout)
    with pytest.raises(ValueError, match="do not fit"):
        pack_weights(layer.codes, layer.scales[:, :1], layer.bias, layout)


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_activations_are_rows_then_groups(rows: int) -> None:
    hardware, preset = tiny()
    x = np.random.default_rng(3).standard_normal((rows, 3 * GROUP)).astype(np.float16)
    stream = pack_activations(x, StreamLayout.of(hardware, preset))
    padded = -(-rows // 2) * 2
    values = stream.view("<f2").reshape(padded, 3 * GROUP)
    assert np.array_equal(values[:rows], x)
    assert not values[rows:].any()


@pytest.mark.parametrize("sizes", SIZES)
def test_results_come_back_in_place(sizes: dict[str, int]) -> None:
    hardware, preset = tiny(**sizes)
    layout, t, n = StreamLayout.of(hardware, preset), hardware.token_rows, hardware.outputs
    rows, outputs = t + 1, 2 * n - 1
    stream = np.zeros(layout.out_beats(2 * t, 1, 2) * layout.stream_bytes, np.uint8)
    beats = stream.reshape(2, 2, -1)  # tile, vector
    for tile, vector in np.ndindex(2, 2):
        block = [[(vector * t + i) * 1000 + tile * n + j for j in range(n)] for i in range(t)]
        raw = np.array(block, "<f4").tobytes()
        beats[tile, vector, : len(raw)] = np.frombuffer(raw, np.uint8)
    y = unpack_results(stream, layout, rows, outputs)
    assert np.array_equal(y, np.arange(rows)[:, None] * 1000 + np.arange(outputs)[None])


@pytest.mark.parametrize("quant", ["fp4", "fp6"])
@pytest.mark.parametrize("sizes", SIZES)
def test_dumped_codes_come_back_in_place(quant: str, sizes: dict[str, int]) -> None:
    hardware, preset = tiny(quant, **sizes)
    layout, t, size = StreamLayout.of(hardware, preset), hardware.token_rows, hardware.stream_bytes
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 1 << preset.code_bits, (2 * t, 2 * GROUP), dtype=np.uint8)
    scale, negative = rng.integers(0, 1 << 16, (2, 2 * t, 2), dtype=np.uint16)
    stream = np.zeros(layout.out_beats(2 * t, 2, 0, dump=True) * size, np.uint8)
    sections = stream.reshape(2, 2, -1)  # vector, group
    for v, g in np.ndindex(2, 2):
        pairs = b"".join(
            int(s[r, g]).to_bytes(2, "little")
            for r in range(v * t, v * t + t)
            for s in (scale, negative)
        )
        raw = pack_codes(codes[v * t : v * t + t, g * GROUP : (g + 1) * GROUP], preset.code_bits)
        body = pairs.ljust(layout.dump_scale_beats * size, b"\0") + raw.tobytes()
        sections[v, g, : len(body)] = np.frombuffer(body, np.uint8)
    for rows in range(t + 1, 2 * t + 1):
        found = unpack_dump(stream, layout, rows, 2)
        assert np.array_equal(found.codes, codes[:rows])
        assert np.array_equal(found.scale, scale[:rows])
        assert np.array_equal(found.scale_neg, negative[:rows])


def test_fp16_rounds_to_even_and_saturates() -> None:
    x = np.array(
        [1 + 2**-11, 1 + 3 * 2**-11, 65503, 65519, 65520, 3e38, -65520, 2**-25, 3 * 2**-25, -0.0],
        np.float32,
    )
    expected = [1, 1 + 2**-9, 65504, 65504, 65504, 65504, -65504, 0, 2**-23, 0]
    assert to_fp16(x).tolist() == expected
    assert to_fp16(np.array([1.5], np.float16)).tolist() == [1.5]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_fp16_refuses_what_is_not_finite(bad: float) -> None:
    x = np.zeros((3, 4), np.float32)
    x[1, 2] = bad
    with pytest.raises(BadInput, match=r"\(1, 2\) is"):
        to_fp16(x)
    with pytest.raises(BadInput, match="float64"):
        to_fp16(np.zeros(2))
