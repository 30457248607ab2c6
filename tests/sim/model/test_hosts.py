# SPDX-License-Identifier: Apache-2.0
"""What a host does for an image, scaled to a model's sizes."""

from __future__ import annotations

import pytest

from lutvar.contract.shape import TransformerShape
from lutvar.sim.model.hosts import DECODER, HIDDEN, PRODUCTS, SHARE, HostTimes

D30 = TransformerShape.official("d30")


def test_the_reference_is_what_the_file_says() -> None:
    desktop, board = (HostTimes.of(name, D30) for name in ("desktop", "a72"))
    assert desktop.seconds["sampling"] <= 0.02  # the target of `lutvar bench`
    assert desktop.how.startswith("measured") and board.how.startswith("stated, not measured")
    assert (desktop.cores, board.cores) == (2, 2)
    for name, seconds in desktop.seconds.items():
        assert board.seconds[name] == pytest.approx(10 * seconds)


def test_an_image_waits_for_one_way_to_decode_and_for_no_random_bits() -> None:
    host = HostTimes.of("a72", D30)
    here, there = host.parts(device_decodes=False), host.parts(device_decodes=True)
    assert DECODER in here and not set(SHARE) & set(here)
    assert set(SHARE) <= set(there) and DECODER not in there
    assert HIDDEN not in here and HIDDEN not in there
    assert set(here) | set(there) | {HIDDEN} == set(host.seconds)


def test_parts_grow_with_their_work() -> None:
    small, large = (HostTimes.of("desktop", TransformerShape.official(n)) for n in ("d16", "d36-s"))
    sizes = TransformerShape.official("d16"), TransformerShape.official("d36-s")
    assert large.seconds["decoder"] == pytest.approx(4 * small.seconds["decoder"])
    assert large.seconds[PRODUCTS] == pytest.approx(16 * small.seconds[PRODUCTS])
    tokens = sizes[1].tokens / sizes[0].tokens
    assert large.seconds["sampling"] == pytest.approx(tokens * small.seconds["sampling"])
