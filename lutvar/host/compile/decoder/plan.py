# SPDX-License-Identifier: Apache-2.0
"""Where the decoder's maps lie in WORK, and in IO what host and device hand each other.

WORK holds the maps (`lutvar/contract/decoder_memory.py`), each at a multiple of 4 KiB, from an
offset on that the transformer's tensors leave free: borders stay zero from image to image. IO
holds the latent map, an activated map that the host writes; scale and shift of one norm, FP16, as
wide as a row of NORM; the sums of one map, 16 bytes a column.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.column_sums import COLUMN_BYTES, MAX_BLOCKS
from lutvar.contract.decoder import Conv, DecoderShape, Norm, stored_channels
from lutvar.contract.decoder_memory import Place, map_bytes, source_place
from lutvar.contract.isa import Region, address
from lutvar.contract.quant_preset import GROUP
from lutvar.host.compile.model_layout import PAGE


def page(size: int) -> int:
    """The next multiple of 4 KiB."""
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class Map:
    """A map in memory.

    Attributes:
        region, offset: of its first byte.
        side, channels: without the border; as stored.
        border: pixels around it: 1 of an activated map, 0 of a raw one.
        value: bytes of a value.
    """

    region: Region
    offset: int
    side: int
    channels: int
    border: int

    @property
    def value(self) -> int:
        """Bytes of a value: FP16 of an activated map, float32 of a raw one."""
        return 2 if self.border else 4

    @property
    def pixel(self) -> int:
        """Bytes of a pixel."""
        return self.channels * self.value

    @property
    def line(self) -> int:
        """Bytes from line to line."""
        return (self.side + 2 * self.border) * self.pixel

    @property
    def size(self) -> int:
        """Bytes of its lines, the border's included."""
        return (self.side + 2 * self.border) * self.line

    def at(self, y: int, x: int) -> int:
        """Byte offset of a pixel in its region; -1 and `side` are in the border."""
        return self.offset + (y + self.border) * self.line + (x + self.border) * self.pixel


@dataclass(frozen=True)
class DecoderPlan:
    """Addresses of one image's maps.

    Attributes:
        shape, config: of the decoder, and what runs it.
        base: offset in WORK from which on the maps lie, a multiple of 4 KiB.
    """

    shape: DecoderShape
    config: AcceleratorConfig
    base: int = 0

    @cached_property
    def _latent(self) -> Place:
        return source_place(self.shape.convolutions[0])

    @cached_property
    def places(self) -> dict[Place, tuple[int, int]]:
        """Offset and bytes in WORK of every map but the latent one."""
        found, at = {}, self.base
        for place, size in map_bytes(self.shape).items():
            if place != self._latent:
                found[place] = at, size
                at += page(size)
        return found

    def activated(self, place: Place) -> Map:
        """An activated map."""
        if place == self._latent:
            return Map(Region.IO, 0, place.side, place.channels, 1)
        return Map(Region.WORK, self.places[place][0], place.side, place.channels, 1)

    def raw(self, name: str, side: int, channels: int) -> Map:
        """A raw map of so many channels of the network."""
        return Map(Region.WORK, self.places[Place(name)][0], side, stored_channels(channels), 0)

    @property
    def work_size(self) -> int:
        """Bytes of WORK up to the end of the last map."""
        last = list(self.places.values())[-1]
        size = page(sum(last))
        address(Region.WORK, size - PAGE)  # raises where offsets end
        return size

    # IO --------------------------------------------------------------------------------------
    @property
    def latent(self) -> Map:
        """The latent map, which the host writes."""
        return self.activated(self._latent)

    @cached_property
    def latent_bytes(self) -> int:
        """Bytes of it, with the zeros behind."""
        return map_bytes(self.shape)[self._latent]

    def norm_pixels(self, norm: Norm) -> int:
        """Pixels of a line that a row of NORM takes: what divides it, at most a bank's columns."""
        channels = stored_channels(norm.channels)
        share = GROUP // math.gcd(GROUP, channels)
        most = min(MAX_BLOCKS, self.config.acc_depth // GROUP) * GROUP
        fit = [n for n in range(share, norm.side + 1, share)
               if norm.side % n == 0 and n * channels <= most]  # fmt: skip
        return max(fit, default=share)

    def norm_columns(self, norm: Norm) -> int:
        """Values of a row of NORM."""
        return self.norm_pixels(norm) * stored_channels(norm.channels)

    @cached_property
    def _vector_bytes(self) -> int:
        norms = (s for s in self.shape.steps if isinstance(s, Norm))
        return page(2 * max(self.norm_columns(norm) for norm in norms))

    @property
    def scale(self) -> int:
        """Offset in IO of a norm's scale."""
        return page(self.latent_bytes)

    @property
    def shift(self) -> int:
        """Offset in IO of a norm's shift."""
        return self.scale + self._vector_bytes

    @property
    def sums(self) -> int:
        """Offset in IO of a map's sums."""
        return self.shift + self._vector_bytes

    @cached_property
    def io_size(self) -> int:
        """Bytes of IO."""
        columns = max(s.columns for s in self.shape.steps if isinstance(s, Conv))
        return self.sums + page(columns * COLUMN_BYTES)
