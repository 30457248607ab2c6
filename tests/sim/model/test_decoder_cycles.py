# SPDX-License-Identifier: Apache-2.0
"""Cycles of the decoder from counts: what ships fits its share of a second."""

from __future__ import annotations

import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.decoder_form import get_form
from lutvar.sim.model.decoder import decoder_cycles, decoder_programs

OFFICIAL = DecoderShape.official()


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
    # Rows of 4 pixels, 5 blocks: of each block 16 rows and two vectors are read.
    assert cycles.norm == rows // 16 * (5 * (16 * 8 + 2 * 4) + 2)
    assert cycles.post - cycles.norm > rows * 5 * 8  # 640 float32 values, 16 a cycle
    tiles = -(-rows // 352)
    assert tiles * 24 * 640 <= cycles.matrix < tiles * 24 * 640 * 1.3


@pytest.mark.parametrize(
    ("config", "form"),
    [
        ("vck190-fp4", "two-rotated"),
        ("vck190-latency-fp4", "two-rotated"),
        ("vck190-fp6", "graded"),
    ],
)
def test_decoding_fits_its_share_of_a_second(config: str, form: str) -> None:
    """What ships: at most 0.25 s at 250 MHz for 256 pixels."""
    found = decoder_cycles(OFFICIAL, get_form(form), load_accelerator(config))
    assert sum(c.total for c in found) / 250e6 < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "form"), [("vck190-fp4", "two-rotated"), ("vck190-fp6", "graded")]
)
def test_programs_take_little_more_than_their_busiest_units(config: str, form: str) -> None:
    """Waits, the beginning and the end of 44 programs, copies that nothing overlaps."""
    size = load_accelerator(config)
    counted = sum(c.total for c in decoder_cycles(OFFICIAL, get_form(form), size))
    found = decoder_programs(OFFICIAL, get_form(form), size)
    assert found.programs == 44 and counted < found.cycles < 1.2 * counted
    assert found.cycles / 250e6 < 0.25


def test_programs_of_a_small_decoder() -> None:
    shape = DecoderShape(8, 32, (1, 1), 2, 1, 4)
    size = load_accelerator("small-fp4")
    found = decoder_programs(shape, get_form("one"), size)
    assert found.programs == 20 and found.map_bytes < 1 << 20
    assert found.cycles > sum(c.total for c in decoder_cycles(shape, get_form("one"), size))
