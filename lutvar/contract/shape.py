# SPDX-License-Identifier: Apache-2.0
"""Sizes of a transformer, without its weights: what a compiler needs to know."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .errors import ConfigError

PATCH_NUMS_256 = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
PATCH_NUMS_512 = (1, 2, 3, 4, 6, 9, 13, 18, 24, 32)

#: The released sizes: name -> (depth, scales, shared AdaLN).
OFFICIAL_SIZES: dict[str, tuple[int, tuple[int, ...], bool]] = {
    "d16": (16, PATCH_NUMS_256, False),
    "d20": (20, PATCH_NUMS_256, False),
    "d24": (24, PATCH_NUMS_256, False),
    "d30": (30, PATCH_NUMS_256, False),
    "d36-s": (36, PATCH_NUMS_512, True),
}
OFFICIAL_VOCAB = 4096  #: entries of the released tokenizer's codebook


def official_size(name: str) -> tuple[int, tuple[int, ...], bool]:
    """Depth, scales and shared AdaLN of a released size; the width is 64 channels a block.

    Raises:
        ConfigError: no such size.
    """
    if name not in OFFICIAL_SIZES:
        names = ", ".join(OFFICIAL_SIZES)
        raise ConfigError(f"unknown size {name!r}; the released ones are {names}")
    return OFFICIAL_SIZES[name]


@dataclass(frozen=True)
class TransformerShape:
    """Sizes of the transformer.

    Attributes:
        width: channels C.
        depth: blocks.
        heads: attention heads.
        hidden: channels between fc1 and fc2.
        vocab: logits of a token.
        patch_nums: side of each token map, coarse to fine.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    vocab: int
    patch_nums: tuple[int, ...]

    @classmethod
    def official(cls, name: str) -> TransformerShape:
        """A released size: "d16", "d20", "d24", "d30" or "d36-s". Raises ConfigError."""
        depth, patch_nums, _ = official_size(name)
        width = 64 * depth
        return cls(width, depth, depth, 4 * width, OFFICIAL_VOCAB, patch_nums)

    @cached_property
    def scale_tokens(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(p * p for p in self.patch_nums)

    @cached_property
    def tokens(self) -> int:
        """Tokens of one image over all scales."""
        return sum(self.scale_tokens)
