# SPDX-License-Identifier: Apache-2.0
"""Weight panels byte by byte: what each weight port reads, and in which order."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.memory import (
    block_at,
    block_cycles,
    pack_panel,
    panel_beats,
    panel_shares,
    port_beats,
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


def _share(codes, scales, bias, bits: int, port: int, ports: int) -> bytes:
    """What a port reads, block by block, as `memory` says it."""
    raw = b""
    for stripe in range(port, len(codes) // 128, ports):
        for at in range(128 * stripe, 128 * stripe + 128, 32):
            raw += scales[at : at + 32].astype("<u2").tobytes()
            for half in (at, at + 16):
                if bias is not None:
                    raw += bias[half : half + 16].astype("<f4").tobytes()
                raw += _bit_string(codes[half : half + 16], bits)
    return raw


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("ports", [1, 2, 4])
@pytest.mark.parametrize("outputs", [128, 384, 640])
@pytest.mark.parametrize("first", [True, False])
def test_order_of_a_panel(bits: int, ports: int, outputs: int, first: bool) -> None:
    codes, scales, bias = _panel(bits, outputs, first)
    panel = pack_panel(codes, scales, bias, bits, ports)
    parts = [_share(codes, scales, bias, bits, port, ports) for port in range(ports)]
    assert panel == b"".join(parts)
    assert len(panel) // 64 == panel_beats(outputs, bits, first)
    shares = panel_shares(outputs, bits, first, ports)
    beats = port_beats(shares.beats, shares.full, shares.rest, ports)
    assert [64 * n for n in beats] == [len(part) for part in parts]
    assert 1 <= shares.full <= ports and shares.rest < shares.beats
    assert shares.rest == 0 or shares.full < ports
    found = unpack_panel(np.frombuffer(panel, np.uint8), outputs, bits, first, ports)
    np.testing.assert_array_equal(found[0], codes)
    np.testing.assert_array_equal(found[1], scales)
    assert (found[2] is None) == (bias is None)
    if bias is not None:
        np.testing.assert_array_equal(found[2], bias)


@pytest.mark.parametrize("bits", [4, 6])
@pytest.mark.parametrize("ports", [1, 2, 4])
@pytest.mark.parametrize("first", [True, False])
def test_every_beat_belongs_to_a_block(bits: int, ports: int, first: bool) -> None:
    """A change of one block's weights changes its beats and no others."""
    codes, scales, bias = _panel(bits, 384, first)
    panel = np.frombuffer(pack_panel(codes, scales, bias, bits, ports), np.uint8).reshape(-1, 64)
    owners = [block_at(beat, 384, bits, first, ports) for beat in range(len(panel))]
    for block in range(12):
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
    ("bits", "ports", "sections", "first", "cycles"),
    [
        (4, 1, 1, False, 33), (4, 1, 1, True, 35), (6, 1, 1, False, 49), (6, 1, 1, True, 51),
        (4, 2, 1, False, 32), (4, 2, 1, True, 32), (6, 2, 1, False, 32), (6, 2, 1, True, 32),
        (4, 2, 2, False, 33), (4, 4, 2, False, 32), (6, 4, 4, True, 51), (6, 4, 2, False, 32),
    ],
)  # fmt: skip
def test_cycles_of_a_block(bits: int, ports: int, sections: int, first: bool, cycles: int) -> None:
    assert block_cycles(bits, first, ports, sections) == cycles
