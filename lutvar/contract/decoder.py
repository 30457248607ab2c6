# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's decoder as a list of steps on maps: what runs, in which order and in what sizes.

`docs/arithmetic.md`, section 14, has the rules. Nothing here knows weights or values, so that
golden model, host and cycle model read the same list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from .errors import ConfigError
from .quant_preset import GROUP
from .shape import OFFICIAL_VOCAB as OFFICIAL_VOCAB
from .shape import PATCH_NUMS_256

CHANNEL_MULTIPLE = 32  #: channels of a map in memory: pixels of FP16 begin at multiples of 64 bytes
NORM_GROUPS = 32  #: of every group norm
MAX_PIXELS = 1 << 18  #: of a map: sums of squares then fit 64 bits


def stored_channels(channels: int) -> int:
    """Channels of a map as it lies in memory: the next multiple of 32; those added are zero."""
    return -(-channels // CHANNEL_MULTIPLE) * CHANNEL_MULTIPLE


@dataclass(frozen=True)
class Conv:
    """One convolution; its result is a raw map.

    Attributes:
        name: of its weights in the tokenizer.
        source: activated map that it reads.
        target: raw map that it writes.
        inputs, outputs: channels of the network.
        side: pixels of a line of the source, which is square.
        taps: 3, or 1 for a 1x1 convolution.
        double: the source is doubled first (nearest neighbours), so the target has side 2 * side.
        residual: raw map that is added to the result; "" for none.
        shortcut: activated map of `shortcut_inputs` channels whose 1x1 convolution is added;
            "" for none. Its weights are `shortcut_name`.
        statistics: the target's sums are wanted.
        straight: every way through the network passes it, no residual goes around.
    """

    name: str
    source: str
    target: str
    inputs: int
    outputs: int
    side: int
    taps: int = 3
    double: bool = False
    residual: str = ""
    shortcut: str = ""
    shortcut_name: str = ""
    shortcut_inputs: int = 0
    statistics: bool = False
    straight: bool = False

    @property
    def span(self) -> int:
        """Pixels of the source whose results make a row: the row is then a multiple of 128 wide."""
        columns = stored_channels(self.outputs) * (2 if self.double else 1)
        return GROUP // math.gcd(GROUP, columns)

    @property
    def columns(self) -> int:
        """Results of a row: one or two pixels of the target for each of the span."""
        return self.span * stored_channels(self.outputs) * (2 if self.double else 1)

    @property
    def rows(self) -> int:
        """Rows of a line of the source."""
        return self.side // self.span

    @property
    def groups(self) -> int:
        """Groups of 128 inputs of a part: the span's pixels and, of 3 taps, one on either side."""
        return window_groups(self.span + self.taps - 1, self.inputs)

    @property
    def shortcut_groups(self) -> int:
        """The same for the shortcut's part; 0 without one."""
        return window_groups(self.span, self.shortcut_inputs) if self.shortcut else 0

    @property
    def parts(self) -> tuple[tuple[tuple[int, int], ...], ...]:
        """For each line of the target that a line of the source makes, its parts in order.

        A part is (line of the source relative to this one, index of its weights).
        """
        if self.double:
            return ((-1, 0), (0, 1)), ((0, 2), (1, 3))
        if self.taps == 1:
            return (((0, 0),),)
        return (((-1, 0), (0, 1), (1, 2)),)

    @property
    def macs(self) -> int:
        """Products of the convolution as it is usually counted."""
        pixels = (self.side * (2 if self.double else 1)) ** 2
        per_pixel = self.inputs * self.taps**2 + self.shortcut_inputs
        return pixels * self.outputs * per_pixel


def window_groups(pixels: int, channels: int) -> int:
    """Groups of 128 that a window of consecutive pixels takes."""
    return -(-pixels * stored_channels(channels) // GROUP)


@dataclass(frozen=True)
class Norm:
    """Raw map to activated map: scale and shift of each channel, or none, then SiLU, or nothing.

    Attributes:
        name: of the group norm in the tokenizer; "" copies (factor 1, shift 0).
        source, target: raw and activated map.
        channels, side: of both.
        gate: SiLU follows.
    """

    name: str
    source: str
    target: str
    channels: int
    side: int
    gate: bool = False


@dataclass(frozen=True)
class Attend:
    """Attention of all pixels of a map over one another: raw map of q, k, v to activated map.

    Attributes:
        source: raw map of 3 * channels.
        target: activated map.
    """

    name: str
    source: str
    target: str
    channels: int
    side: int


Step = Conv | Norm | Attend


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of the decoder.

    Attributes:
        z_channels: channels of the latent map.
        ch, ch_mult: channels of each level are `ch * ch_mult[level]`, fine to coarse.
        blocks: residual blocks of a level.
        image_channels: 1 or 3.
        latent_side: pixels of a line of the latent map.
    """

    z_channels: int
    ch: int
    ch_mult: tuple[int, ...]
    blocks: int
    image_channels: int
    latent_side: int

    def __post_init__(self) -> None:
        for width in self.widths:
            if width % CHANNEL_MULTIPLE:
                raise ConfigError(
                    f"decoder with {width} channels: must be a multiple of {CHANNEL_MULTIPLE}, so "
                    "that pixels begin at multiples of 64 bytes; choose ch = 32, 64, ..."
                )
        if self.image_side**2 > MAX_PIXELS:
            raise ConfigError(
                f"decoder of images of {self.image_side} x {self.image_side} pixels: at most "
                f"{MAX_PIXELS} pixels, so that sums of squares fit 64 bits; decode parts"
            )
        for step in self.steps:
            if isinstance(step, Conv) and step.side % step.span:
                raise ConfigError(
                    f"{step.name}: lines of {step.side} pixels; must be a multiple of "
                    f"{step.span}, since {step.span} pixels of {step.outputs} channels make a row"
                )

    @classmethod
    def official(cls, patch_nums: tuple[int, ...] = PATCH_NUMS_256) -> DecoderShape:
        """The released tokenizer: 16 times as many pixels as the last token map has, each way."""
        return cls(32, 160, (1, 1, 2, 2, 4), 3, 3, patch_nums[-1])

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of the levels, fine to coarse."""
        return tuple(self.ch * m for m in self.ch_mult)

    @property
    def image_side(self) -> int:
        """Pixels of a line of the image."""
        return self.latent_side << (len(self.ch_mult) - 1)

    @property
    def convolutions(self) -> list[Conv]:
        """The convolutions, in order."""
        return [step for step in self.steps if isinstance(step, Conv)]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps, in order, from activated map `z`, the latent map, to raw map `image`."""
        return tuple(self._steps())

    def _steps(self) -> Iterator[Step]:
        side, top = self.latent_side, self.widths[-1]
        z = self.z_channels
        yield Conv("post_quant_conv", "z", "h", z, z, side, straight=True)
        yield Norm("", "h", "a", z, side)
        yield Conv("decoder.conv_in", "a", "x", z, top, side, statistics=True, straight=True)
        yield from _residual("decoder.mid.block_1", top, top, side)
        yield from _attention("decoder.mid.attn_1", top, side)
        yield from _residual("decoder.mid.block_2", top, top, side)
        channels, last = top, len(self.ch_mult) - 1
        for level in range(last, -1, -1):
            name, width = f"decoder.up.{level}", self.widths[level]
            for block in range(self.blocks):
                yield from _residual(f"{name}.block.{block}", channels, width, side)
                channels = width
                if level == last:
                    yield from _attention(f"{name}.attn.{block}", width, side)
            if level:
                yield Norm("", "x", "a", width, side)
                yield Conv(
                    f"{name}.upsample.conv", "a", "x", width, width, side, double=True,
                    statistics=True, straight=True,
                )  # fmt: skip
                side *= 2
        yield Norm("decoder.norm_out", "x", "a", channels, side, gate=True)
        yield Conv(
            "decoder.conv_out", "a", "image", channels, self.image_channels, side, straight=True
        )


def _residual(name: str, inputs: int, outputs: int, side: int) -> Iterator[Step]:
    """A residual block from raw map x to raw map x."""
    yield Norm(f"{name}.norm1", "x", "a", inputs, side, gate=True)
    yield Conv(f"{name}.conv1", "a", "h", inputs, outputs, side, statistics=True)
    yield Norm(f"{name}.norm2", "h", "a", outputs, side, gate=True)
    if inputs == outputs:
        yield Conv(f"{name}.conv2", "a", "x", outputs, outputs, side, residual="x", statistics=True)
        return
    yield Norm("", "x", "c", inputs, side)
    yield Conv(
        f"{name}.conv2", "a", "x", outputs, outputs, side, shortcut="c",
        shortcut_name=f"{name}.nin_shortcut", shortcut_inputs=inputs, statistics=True,
    )  # fmt: skip


def _attention(name: str, channels: int, side: int) -> Iterator[Step]:
    """Attention from raw map x to raw map x."""
    yield Norm(f"{name}.norm", "x", "a", channels, side)
    yield Conv(f"{name}.qkv", "a", "q", channels, 3 * channels, side, taps=1)
    yield Attend(name, "q", "a", channels, side)
    yield Conv(
        f"{name}.proj_out", "a", "x", channels, channels, side, taps=1, residual="x",
        statistics=True,
    )  # fmt: skip
