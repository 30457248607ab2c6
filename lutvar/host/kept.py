# SPDX-License-Identifier: Apache-2.0
"""A model that stays in a board's memory: the next process finds it and transfers nothing.

The last page of the memory holds a marker: which model lies at offset 0. It is invalid before the
first byte of a transfer, so that one that was cut off is never believed, and believed only together
with pages of the model that are compared each time, others each time.
"""

from __future__ import annotations

import hashlib
import random
import struct
from dataclasses import dataclass

import numpy as np

from .load import Progress, chunks_of, load
from .transport import Bytes, MemoryTransport

PAGE = 4096
MARKER_BYTES = PAGE  #: at the end of the memory, in no region of the device
_SPOTS = 16  #: pages that are compared
#: magic, uses so far, bytes of the model, its SHA-256; a SHA-256 over these follows.
_FIELDS = struct.Struct("<8sQQ32s")
_MAGIC = b"LUTVARM1"


@dataclass(frozen=True)
class Marker:
    """What the marker says.

    Attributes:
        uses: processes that have found the model here.
        size: bytes of the model. digest: its SHA-256.
    """

    uses: int
    size: int
    digest: bytes

    @classmethod
    def read(cls, transport: MemoryTransport) -> Marker | None:
        """The marker of a memory; None when there is none that is whole."""
        raw = transport.read(transport.size - MARKER_BYTES, _FIELDS.size + 32).tobytes()
        fields = raw[: _FIELDS.size]
        magic, uses, size, digest = _FIELDS.unpack(fields)
        if magic != _MAGIC or hashlib.sha256(fields).digest() != raw[_FIELDS.size :]:
            return None
        return cls(uses, size, digest)

    def write(self, transport: MemoryTransport) -> None:
        """Put it into the memory."""
        fields = _FIELDS.pack(_MAGIC, self.uses, self.size, self.digest)
        raw = np.frombuffer(fields + hashlib.sha256(fields).digest(), np.uint8)
        transport.write(transport.size - MARKER_BYTES, raw)


def forget(transport: MemoryTransport) -> None:
    """Make the marker invalid: before anything else is written where a model may lie."""
    at = transport.size - MARKER_BYTES
    if at >= 0:
        transport.write(at, np.zeros(_FIELDS.size + 32, np.uint8))


def place_kept(
    transport: MemoryTransport, model: Bytes, digest: str, progress: Progress | None = None
) -> bool:
    """Bring a model to offset 0 unless it lies there already.

    Args:
        model: uint8 [n].
        digest: SHA-256 that stands for it, in hexadecimal digits.
        progress: called with the bytes written so far; with all of them when nothing was to do.

    Returns:
        Whether it was transferred.

    Raises:
        MemoryMismatch: it reads back otherwise.
    """
    marker = Marker.read(transport)
    sha = bytes.fromhex(digest)
    same = marker is not None and (marker.size, marker.digest) == (len(model), sha)
    if marker is not None and same and _found(transport, model, marker):
        Marker(marker.uses + 1, marker.size, sha).write(transport)
        if progress is not None:
            progress(len(model))
        return False
    forget(transport)
    load(transport, 0, chunks_of(model), progress=progress)
    Marker(0, len(model), sha).write(transport)
    return True


def _found(transport: MemoryTransport, model: Bytes, marker: Marker) -> bool:
    """Whether some pages of the model are where the marker says; the first and last always."""
    pages = -(-len(model) // PAGE)
    # Others at each use, and yet the same when a recorded run is replayed.
    chosen = random.Random(marker.uses).sample(range(pages), min(_SPOTS, pages))
    for page in {0, pages - 1, *chosen} if pages else ():
        expected = model[page * PAGE : (page + 1) * PAGE]
        if not np.array_equal(transport.read(page * PAGE, len(expected)), expected):
            return False
    return True
