# SPDX-License-Identifier: Apache-2.0
"""Cycles of the decoder from counts: tiles cover each map, units get what they must."""

from __future__ import annotations

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.decoder import Conv, DecoderShape
from lutvar.contract.decoder_form import get_form
from lutvar.contract.terms import Terms
from lutvar.sim.model.decoder import decoder_cycles, slices, tilings

OFFICIAL = DecoderShape.official()
ONE, TWO = Terms(1, 1), Terms(2, 2)


@pytest.mark.parametrize("config", ["vck190-fp4", "vck190-fp6", "small-fp4"])
@pytest.mark.parametrize("terms", [ONE, TWO], ids=["one", "two"])
def test_tiles_cover_the_map(config: str, terms: Terms) -> None:
    size = load_accelerator(config)
    for conv in OFFICIAL.convolutions:
        found = list(tilings(conv, terms, size))
        assert found
        for tiling in found:
            assert tiling.rows <= size.rows
            assert tiling.width * tiling.across == conv.rows
            assert tiling.bands * tiling.lines >= conv.side
            assert tiling.loads >= tiling.tiles


def test_a_window_is_loaded_once_where_banks_hold_it() -> None:
    size = load_accelerator("vck190-latency-fp4")
    fine = Conv("fine", "a", "x", 160, 160, 256)
    assert slices(fine, TWO, size) == 1
    for tiling in tilings(fine, TWO, size):
        assert tiling.loads == tiling.across * (tiling.lines + 2)
    wide = Conv("wide", "a", "x", 640, 640, 32)
    assert slices(wide, TWO, size) == 2  # 15 groups in two terms, banks of 18
    for tiling in tilings(wide, TWO, size):
        assert tiling.loads == tiling.tiles * 3
    for tiling in tilings(wide, ONE, size):
        assert tiling.loads == tiling.across * (tiling.lines + 2)


def test_work_of_one_convolution_by_hand() -> None:
    """160 channels at 256 pixels, FP4, one term: 3 parts of 8 groups, 640 columns of 4 pixels."""
    (cycles,) = [
        c for c in decoder_cycles(OFFICIAL, get_form("one"), load_accelerator("vck190-latency-fp4"))
        if c.name == "decoder.up.0.block.1.conv1"
    ]  # fmt: skip
    assert cycles.macs == 256 * 256 * 160 * 160 * 9
    rows = 256 * 256 // 4
    assert rows * 64 < cycles.front < rows * 64 * 1.3  # 1,024 values at 16 a cycle
    assert cycles.groups * 8 == cycles.front
    assert cycles.norm == 256 * 256 * 160 // 16
    assert cycles.post - cycles.norm > rows * 5 * 8  # 640 float32 values, 16 a cycle
    tiles = -(-rows // 352)
    assert tiles * 24 * 640 <= cycles.matrix < tiles * 24 * 640 * 1.3


def test_decoding_fits_its_share_of_a_second() -> None:
    """What ships: at most 0.25 s at 250 MHz for 256 pixels."""
    for config, form in (("vck190-latency-fp4", "two-rotated"), ("vck190-fp6", "graded")):
        found = decoder_cycles(OFFICIAL, get_form(form), load_accelerator(config))
        assert sum(c.total for c in found) / 250e6 < 0.25
