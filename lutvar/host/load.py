# SPDX-License-Identifier: Apache-2.0
"""Large contents into the device's memory: in chunks, each read back, with progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from .errors import HostError
from .transport import Bytes, MemoryTransport

CHUNK = 1 << 24  #: bytes
Progress = Callable[[int], None]


class MemoryMismatch(HostError):
    """The memory does not hold what was written.

    Attributes:
        offset: of the first byte that differs, from the transport's base.
        expected, found: its values.
        count: bytes of the chunk that differ.
    """

    def __init__(
        self, name: str, address: int, offset: int, expected: int, found: int, count: int
    ) -> None:
        self.offset, self.expected, self.found, self.count = offset, expected, found, count
        super().__init__(
            f"{name}: the memory at 0x{address:X} holds 0x{found:02X} after 0x{expected:02X} was "
            f"written ({count:,} bytes of the chunk differ); check that the buffer lies in the "
            "memory of the device tree's pool and that nothing else uses it"
        )


def chunks_of(data: Bytes, size: int = CHUNK) -> Iterator[Bytes]:
    """Views of at most `size` bytes each."""
    for start in range(0, len(data), size):
        yield data[start : start + size]


def load(
    transport: MemoryTransport,
    offset: int,
    chunks: Iterable[Bytes],
    progress: Progress | None = None,
) -> int:
    """Write chunks one after the other, and read each back to compare it.

    Args:
        offset: of the first, from the transport's base.
        progress: called with the bytes written so far, after each chunk.

    Returns:
        The bytes written.

    Raises:
        MemoryMismatch: a chunk reads back otherwise.
        BadInput: outside the memory.
    """
    at = offset
    for chunk in chunks:
        transport.write(at, chunk)
        compare(transport, at, chunk)
        at += len(chunk)
        if progress is not None:
            progress(at - offset)
    return at - offset


def compare(transport: MemoryTransport, offset: int, expected: Bytes) -> None:
    """Read bytes and compare. Raises MemoryMismatch."""
    found = transport.read(offset, len(expected))
    if np.array_equal(found, expected):
        return
    wrong = np.flatnonzero(found != expected)
    first = int(wrong[0])
    raise MemoryMismatch(
        transport.name, transport.base + offset + first, offset + first, int(expected[first]),
        int(found[first]), len(wrong),
    )  # fmt: skip
