# SPDX-License-Identifier: Apache-2.0
"""A model that stays in the buffer for the next process, and when it is not believed."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.host import Device
from lutvar.host.board.selftest_memory import host_memory
from lutvar.host.kept import Marker, forget
from lutvar.sim.fakeboard.board import FakeBoard
from support.sim.double_chip import (
    IO,
    MODEL,
    DoubleChip,
    connect,
    invert,
)

CONFIG = load_accelerator("small-fp4")


def test_a_model_is_placed_once(board: FakeBoard, chip: DoubleChip) -> None:
    """A second process finds it; one that was altered or cut off is not believed."""

    def transferred(digest: str = "ab" * 32) -> int:
        board.caches.log.clear()
        seen: list[int] = []
        transport = connect(board)
        with Device(transport, CONFIG) as device:
            device.place(MODEL, 64, IO, 64, digest=digest, progress=seen.append)
            assert invert(device, 1)
        transport.close()
        assert seen == [len(MODEL)]
        np.testing.assert_array_equal(chip.memory[: len(MODEL)], MODEL)
        return max(size for name, _, size, _ in board.caches.log if name == "sync_for_device")

    assert transferred() >= len(MODEL)
    assert transferred() < 4096
    assert transferred() < 4096
    assert transferred("cd" * 32) >= len(MODEL)  # another model
    chip.memory[4096 * 3 + 5] ^= 1  # the last page is always compared
    assert transferred("cd" * 32) >= len(MODEL)
    chip.memory[-4096 + 9] ^= 1  # the marker itself
    assert transferred("cd" * 32) >= len(MODEL)
    assert transferred("cd" * 32) < 4096
    transport = connect(board)
    with Device(transport, CONFIG) as device:
        device.place(MODEL, 64, IO, 64)  # without a digest: whatever lay there is forgotten
        assert Marker.read(transport) is None
    transport.close()


def test_a_transfer_that_was_cut_off(board: FakeBoard, chip: DoubleChip) -> None:
    transport = connect(board)
    device = Device(transport, CONFIG)
    device.open()
    device.place(MODEL, 64, IO, 64, digest="ab" * 32)

    def killed(_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        device.place(~MODEL, 64, IO, 64, digest="cd" * 32, progress=killed)
    assert Marker.read(transport) is None
    device.place(MODEL, 64, IO, 64, digest="ab" * 32)
    np.testing.assert_array_equal(chip.memory[: len(MODEL)], MODEL)
    forget(transport)
    transport.close()


def test_a_memory_test_forgets_the_model_first(board: FakeBoard, chip: DoubleChip) -> None:
    """A self-test that is killed half-way leaves patterns that nobody takes for a model."""
    transport = connect(board)
    with Device(transport, CONFIG) as device:
        device.place(MODEL, 64, IO, 64, digest="ab" * 32)
        board.caches.log.clear()
        host_memory(transport, 1, full=False)
        writes = [at for name, at, _, _ in board.caches.log if name == "sync_for_device"]
        assert writes[0] == transport.size - 4096 and len(writes) > 2
    transport.close()
