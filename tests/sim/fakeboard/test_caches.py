# SPDX-License-Identifier: Apache-2.0
"""What the uio transport synchronises, and that a wrong synchronisation shows."""

from __future__ import annotations

import numpy as np
import pytest

from lutvar.contract.accelerator import load_accelerator
from lutvar.host import Device
from lutvar.host.board.buffer import Direction
from lutvar.host.board.udmabuf import DmaBuffer
from lutvar.host.board.uio import UioTransport
from lutvar.host.load import MemoryMismatch
from lutvar.sim.fakeboard.board import FakeBoard
from support.sim.double_chip import (
    IO,
    MODEL,
    DoubleChip,
    connect,
    invert,
    placed,
)

CONFIG = load_accelerator("small-fp4")


def test_every_byte_that_changes_is_synchronised_and_no_more(
    board: FakeBoard, transport: UioTransport
) -> None:
    board.caches.log.clear()
    transport.write(640, np.ones(128, np.uint8))
    transport.read(1000, 100)
    assert board.caches.log == [
        ("sync_for_device", 640, 128, Direction.TO_DEVICE),
        ("sync_for_cpu", 960, 192, Direction.FROM_DEVICE),
    ]
    transport.write(0, np.empty(0, np.uint8))
    assert not len(transport.read(5, 0)) and len(board.caches.log) == 2


@pytest.mark.parametrize(("start", "count"), [(10, 5), (10, 100), (64, 10), (50, 14), (0, 64)])
def test_a_write_within_a_line_keeps_what_the_device_wrote_beside_it(
    chip: DoubleChip, transport: UioTransport, start: int, count: int
) -> None:
    transport.read(0, 256)  # the processor has these lines now
    chip.memory[:256] = np.arange(256)
    transport.write(start, np.full(count, 7, np.uint8))
    expected = np.arange(256, dtype=np.uint8)
    expected[start : start + count] = 7
    np.testing.assert_array_equal(chip.memory[:256], expected)
    np.testing.assert_array_equal(transport.read(0, 256), expected)


@pytest.mark.parametrize("attribute", ["sync_for_device", "sync_for_cpu"])
@pytest.mark.parametrize("fault", ["forgotten", "short", "shifted", "direction"])
def test_a_wrong_synchronisation_shows(
    board: FakeBoard, monkeypatch: pytest.MonkeyPatch, attribute: str, fault: str
) -> None:
    """The same programs as above, with one fault in what is synchronised: results are wrong."""
    right = DmaBuffer._sync

    def wrong(self: DmaBuffer, name: str, start: int, end: int, direction: Direction) -> None:
        if name == attribute and end - start > 64:
            if fault == "forgotten":
                return
            if fault == "short":
                end -= 64
            elif fault == "shifted":
                start += 64
            else:
                direction = Direction(3 - direction)
        right(self, name, start, end, direction)

    transport = connect(board)
    with Device(transport, CONFIG) as device:
        placed(device)
        monkeypatch.setattr(DmaBuffer, "_sync", wrong)
        assert not invert(device, 1)
        if attribute == "sync_for_device":
            with pytest.raises(MemoryMismatch, match=r"memory at 0x500.* holds 0x.. after 0x.."):
                device.place(~MODEL, 64, IO, 64)
        monkeypatch.undo()
        placed(device)
        assert invert(device, 2)
    transport.close()
