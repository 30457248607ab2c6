# SPDX-License-Identifier: Apache-2.0
"""Weight panels byte by byte: what each weight port reads, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.memory import (
    block_at,
    block_beats,
    block_cycles,
    pack_panel,
    panel_beats,
    unpack_panel,
)


def _panel(bits: int, outputs: int, first: bool):
    rng = np.random.default_rng(bits + outputs)
    codes = rng.integers(0, 1 << bits, (outputs, 128)).astype(np.uint8)
    scales = rng.integers(0, 1 << 16, outputs).astype(np.uint16)
    bias = rng.standard_normal(outputs).astype(np.float32) if first else None
    return codes, scales, bias


def _bit_string(codes: np.ndarray, bits: int) -> bytes:
    """Codes as one number of many bits, the slow and sure way."""
    word = sum(int(c) << bits * i for i, c in enumerate(codes.reshape(-1)))
    return word.to_bytes(codes.size * bits // 8, "little")


def _port(codes, scales, bias, bits: int, port: int, ports: int) -> bytes:
    """A port's part, written down from the page's words."""
    raw, lanes = b"", slice(port * 128 // ports, (port + 1) * 128 // ports)
    for block in range(len(codes) // 32):
        at = 32 * block
        own = block % ports == port
        if own:
            raw += scales[at : at + 32].astype("<u2").tobytes()
        if bias is not None and (not own or ports == 1):
            raw += bias[at : at + 16].astype("<f4").tobytes()
        raw += _bit_string(codes[at : at + 16, lanes], bits)
        if bias is not None and own:
            raw += bias[at + 16 : at + 32].astype("<f4").tobytes()
        raw += _bit_string(codes[at + 16 : at + 32, lanes], bits)
    return raw


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("ports", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_order_of_a_panel(bits: int, ports: int, first: bool) -> None:
    codes, scales, bias = _panel(bits, 128, first)
    panel = pack_panel(codes, scales, bias, bits, ports)
    parts = [_port(codes, scales, bias, bits, port, ports) for port in range(ports)]
    assert panel == b"".join(parts)
    # Halves of equal size, of whole beats.
    assert {len(part) for part in parts} == {panel_beats(128, bits, first) * 64 // ports}
    assert len(panel) // 64 == 4 * block_beats(bits, first)
    found = unpack_panel(np.frombuffer(panel, np.uint8), 128, bits, first, ports)
    np.testing.assert_array_equal(found[0], codes)
    np.testing.assert_array_equal(found[1], scales)
    assert (found[2] is None) == (bias is None)
    if bias is not None:
        np.testing.assert_array_equal(found[2], bias)


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("ports", [1, 2])
@pytest.mark.parametrize("first", [True, False])
def test_every_beat_belongs_to_a_block(bits: int, ports: int, first: bool) -> None:
    """A change of one block's weights changes its beats and no others."""
    codes, scales, bias = _panel(bits, 192, first)
    panel = np.frombuffer(pack_panel(codes, scales, bias, bits, ports), np.uint8).reshape(-1, 64)
    owners = [block_at(beat, 192, bits, first, ports) for beat in range(len(panel))]
    for block in range(6):
        at = slice(32 * block, 32 * block + 32)
        other = codes.copy(), scales.copy(), None if bias is None else bias.copy()
        other[0][at] ^= 1
        other[1][at] ^= 1
        if other[2] is not None:
            other[2][at] += 1
        changed = np.frombuffer(pack_panel(*other, bits, ports), np.uint8).reshape(-1, 64)
        beats = np.flatnonzero((panel != changed).any(axis=1))
        assert beats.tolist() == [i for i, owner in enumerate(owners) if owner == block]


@pytest.mark.parametrize(
    ("bits", "ports", "first", "cycles"),
    [
        (4, 1, False, 33), (4, 1, True, 35), (6, 1, False, 49), (6, 1, True, 51),
        (4, 2, False, 32), (4, 2, True, 32), (6, 2, False, 32), (6, 2, True, 32),
    ],
)  # fmt: skip
def test_cycles_of_a_block(bits: int, ports: int, first: bool, cycles: int) -> None:
    assert block_cycles(bits, first, ports) == cycles
