# SPDX-License-Identifier: Apache-2.0
"""Sizes of a transformer, without its weights: what a compiler needs to know."""

from __future__ import annotations

from dataclasses import dataclass

from .var.config import VarConfig


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
    def of(cls, config: VarConfig) -> TransformerShape:
        """The sizes of a model configuration."""
        return cls(
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            hidden=config.hidden,
            vocab=config.vocab,
            patch_nums=config.patch_nums,
        )

    @classmethod
    def official(cls, name: str) -> TransformerShape:
        """A released size: "d16", "d20", "d24", "d30" or "d36-s". Raises ConfigError."""
        return cls.of(VarConfig.official(name))

    @property
    def scale_tokens(self) -> tuple[int, ...]:
        """Tokens of each scale."""
        return tuple(p * p for p in self.patch_nums)

    @property
    def tokens(self) -> int:
        """Tokens of one image over all scales."""
        return sum(self.scale_tokens)
