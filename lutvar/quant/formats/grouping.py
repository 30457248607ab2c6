# SPDX-License-Identifier: Apache-2.0
"""Which values share a scale: groups along an axis, tokens, channels, heads or the whole tensor."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from lutvar.text import TextEnum


class GranularityKind(TextEnum):
    """Which values share a scale."""

    GROUP = "group"  #: neighbours along an axis
    TOKEN = "token"  #: a row: all values along the last axis
    CHANNEL = "channel"  #: an index along an axis: an output channel of a weight
    TENSOR = "tensor"  #: all values
    HEAD = "head"  #: an attention head's share of a row


@dataclass(frozen=True)
class Granularity:
    """One way to cut a tensor into blocks; each block gets one scale (two in dual formats).

    Make it with `group`, `token`, `channel`, `tensor` or `token_and_head`.

    Attributes:
        kind: which values share a scale.
        size: values of a group, or heads of a token; unused otherwise.
        axis: axis that groups run along, or the channel axis.
    """

    kind: GranularityKind
    size: int = 0
    axis: int = -1

    def split(self, x: Tensor) -> Tensor:
        """[*scale shape, values of a block].

        The scale shape is: group, x's shape with the axis moved last and divided by the size;
        token, x's shape without its last axis; head, that and the heads; channel, [channels];
        tensor, [].

        Raises:
            ValueError: the shape does not fit.
        """
        if x.numel() == 0 or x.dim() == 0:
            raise ValueError(f"tensor of shape {tuple(x.shape)}: at least one axis and one value")
        if not -x.dim() <= self.axis < x.dim():
            raise ValueError(f"axis {self.axis}: the tensor has {x.dim()} axes")
        if self.kind == GranularityKind.GROUP:
            moved = x.movedim(self.axis, -1)
            self._need_multiple(moved.shape[-1], "groups of")
            return moved.reshape(*moved.shape[:-1], -1, self.size)
        if self.kind == GranularityKind.HEAD:
            self._need_multiple(x.shape[-1], "heads, here")
            return x.reshape(*x.shape[:-1], self.size, -1)
        if self.kind == GranularityKind.CHANNEL:
            return x.movedim(self.axis, 0).flatten(1) if x.dim() > 1 else x.unsqueeze(1)
        return x.flatten() if self.kind == GranularityKind.TENSOR else x

    def join(self, blocks: Tensor, like: Tensor) -> Tensor:
        """Inverse of `split`: blocks back in the shape of `like`, contiguous."""
        if self.kind == GranularityKind.GROUP:
            return blocks.flatten(-2).movedim(-1, self.axis).contiguous()
        if self.kind == GranularityKind.CHANNEL and like.dim() > 1:
            moved = like.movedim(self.axis, 0)
            return blocks.reshape(moved.shape).movedim(0, self.axis).contiguous()
        return blocks.reshape(like.shape)

    def _need_multiple(self, length: int, what: str) -> None:
        if self.size < 1 or length % self.size:
            raise ValueError(
                f"axis of {length} values does not divide into {what} {self.size}; "
                "choose a divisor, or pad the tensor"
            )


def group(size: int = 128, axis: int = -1) -> Granularity:
    """`size` neighbours along an axis share a scale."""
    return Granularity(GranularityKind.GROUP, size, axis)


def token() -> Granularity:
    """Each row (all values along the last axis) has a scale."""
    return Granularity(GranularityKind.TOKEN)


def channel(axis: int = 0) -> Granularity:
    """Each index along an axis has a scale; for a weight [O, I] the output channel."""
    return Granularity(GranularityKind.CHANNEL, axis=axis)


def tensor() -> Granularity:
    """One scale for everything."""
    return Granularity(GranularityKind.TENSOR)


def token_and_head(heads: int) -> Granularity:
    """Each head's share of each row has a scale (the KV cache)."""
    return Granularity(GranularityKind.HEAD, heads)
