# SPDX-License-Identifier: Apache-2.0
"""Memory behind caches that nothing snoops: two copies, equal only where synchronised.

The processor's copy is the file that the driver maps, the device's is the simulation's memory. Real
caches also write lines back and fetch them when they like; these never do, so a synchronisation
that is forgotten, too short or in the wrong direction always shows.
"""

from __future__ import annotations

import errno

from lutvar.host.transport import Bytes

_TO_DEVICE, _FROM_DEVICE = 1, 2


class Caches:
    """Both copies of a buffer.

    Args:
        processor, device: uint8 [size] each.

    Attributes:
        log: (attribute, offset, size, direction) of every command.
    """

    def __init__(self, processor: Bytes, device: Bytes) -> None:
        self.processor, self.device = processor, device
        self.log: list[tuple[str, int, int, int]] = []

    def command(self, attribute: str, text: str) -> int:
        """Do what a store into sync_for_cpu or sync_for_device does. Returns an errno, or 0.

        The number is taken apart as u-dma-buf does: offset in the upper word, size in bits 31 to 4,
        direction in bits 3 and 2. A plain 1 means the whole buffer in both directions, as the
        attributes sync_offset, sync_size and sync_direction say at first.
        """
        try:
            value = int(text, 0)
        except ValueError:
            return errno.EINVAL
        if not value:
            return 0
        offset, size, direction = value >> 32, value & 0xFFFF_FFF0, value >> 2 & 3
        if value == 1:
            offset, size, direction = 0, len(self.device), 0
        if offset + size > len(self.device):
            return errno.EINVAL
        self.log.append((attribute, offset, size, direction))
        span = slice(offset, offset + size)
        if attribute == "sync_for_device" and direction != _FROM_DEVICE:
            self.device[span] = self.processor[span]
        elif attribute == "sync_for_cpu" and direction != _TO_DEVICE:
            self.processor[span] = self.device[span]
        return 0
