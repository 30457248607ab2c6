# SPDX-License-Identifier: Apache-2.0
"""Shapes and switches of a VAR transformer and of its multi-scale VQVAE.

Two frozen dataclasses, checked when they are made, so that no other file has to
ask whether a width or a list of scales makes sense. Both go to plain
dictionaries (and so to JSON) and back; unknown keys are refused.

Sources: VAR (Tian et al., 2024, arXiv:2404.02905), section 3.2 and appendix,
and the released checkpoints of that work for the named sizes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from lutvar.contract.errors import ConfigError as ConfigError
from lutvar.contract.shape import PATCH_NUMS_256, TransformerShape, official_size

from .config_values import DictRoundTrip, need_bool, need_int, need_number, whole_numbers

#: Quantization groups run along the input channels; every block linear's input
#: is a whole number of groups of this many channels.
WIDTH_MULTIPLE = 128


def _scales(owner: str, value: object) -> tuple[int, ...]:
    """Side lengths of the token maps, coarse to fine."""
    patch_nums = whole_numbers(owner, "patch_nums", value)
    if len(patch_nums) < 2:
        raise ConfigError(
            f"{owner}.patch_nums = {patch_nums}: next-scale prediction needs at least 2 scales "
            "(guidance grows from the first to the last); add one, for example (1, 2)"
        )
    if any(b <= a for a, b in itertools.pairwise(patch_nums)):
        raise ConfigError(
            f"{owner}.patch_nums = {patch_nums}: scales must grow from coarse to fine; sort them "
            "and drop repeats"
        )
    return patch_nums


@dataclass(frozen=True)
class VarConfig(DictRoundTrip):
    """Shape of the transformer.

    Attributes:
        depth: number of blocks.
        width: channels C; a multiple of 128.
        heads: attention heads; divides width.
        patch_nums: side of each token map, coarse to fine.
        num_classes: classes without the null class (which has index num_classes).
        vocab: codebook entries V.
        z_channels: channels of a codebook entry.
        mlp_ratio: FFN hidden channels / width.
        shared_adaln: one AdaLN projection for all blocks plus a learned offset per block.
        attn_l2_norm: unit-length queries and keys with one learned scale per head.
        norm_eps: epsilon of every layer norm.
        drop_rate: dropout after proj and FFN (training only).
        drop_path_rate: stochastic depth of the last block, rising linearly (training only).
        cond_drop_rate: share of labels replaced by the null class (training only).
    """

    depth: int
    width: int
    heads: int
    patch_nums: tuple[int, ...]
    num_classes: int
    vocab: int
    z_channels: int
    mlp_ratio: float = 4.0
    shared_adaln: bool = False
    attn_l2_norm: bool = True
    norm_eps: float = 1e-6
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    cond_drop_rate: float = 0.1

    def __post_init__(self) -> None:
        owner = "VarConfig"
        for name in ("depth", "width", "heads", "num_classes", "z_channels"):
            need_int(owner, name, getattr(self, name), 1)
        need_int(owner, "vocab", self.vocab, 2)
        for name in ("shared_adaln", "attn_l2_norm"):
            need_bool(owner, name, getattr(self, name))
        for name in ("drop_rate", "drop_path_rate"):
            need_number(owner, name, getattr(self, name), 0.0, 0.99)
        need_number(owner, "cond_drop_rate", self.cond_drop_rate, 0.0, 1.0)
        need_number(owner, "norm_eps", self.norm_eps, 1e-12, 1.0)
        need_number(owner, "mlp_ratio", self.mlp_ratio, 0.0, 1024.0)
        object.__setattr__(self, "patch_nums", _scales(owner, self.patch_nums))
        if self.width % WIDTH_MULTIPLE:
            near = max(WIDTH_MULTIPLE, round(self.width / WIDTH_MULTIPLE) * WIDTH_MULTIPLE)
            raise ConfigError(
                f"{owner}.width = {self.width}: must be a multiple of {WIDTH_MULTIPLE} (the "
                f"quantization group); the nearest is {near}"
            )
        if self.width % self.heads:
            raise ConfigError(
                f"{owner}.heads = {self.heads}: must divide width = {self.width}; "
                f"for example {max(1, self.width // 64)} heads of 64 channels"
            )
        if self.hidden < WIDTH_MULTIPLE or self.hidden % WIDTH_MULTIPLE:
            raise ConfigError(
                f"{owner}.mlp_ratio = {self.mlp_ratio}: gives {self.hidden} hidden channels, which "
                f"must be a multiple of {WIDTH_MULTIPLE}; use a whole number such as 4"
            )

    @property
    def hidden(self) -> int:
        """Channels between fc1 and fc2."""
        return round(self.width * self.mlp_ratio)

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.width // self.heads

    @property
    def tokens(self) -> int:
        """Tokens of one image over all scales (L)."""
        return sum(p * p for p in self.patch_nums)

    @property
    def scale_ranges(self) -> tuple[tuple[int, int], ...]:
        """(first, last + 1) token of each scale."""
        ends = tuple(itertools.accumulate((p * p for p in self.patch_nums), initial=0))
        return tuple(itertools.pairwise(ends))

    @classmethod
    def official(cls, name: str) -> VarConfig:
        """A released size: "d16", "d20", "d24", "d30" (256 px) or "d36-s" (512 px).

        Raises:
            ConfigError: unknown name.
        """
        depth, patch_nums, shared = official_size(name)
        return cls(
            depth=depth,
            width=64 * depth,
            heads=depth,
            patch_nums=patch_nums,
            num_classes=1000,
            vocab=4096,
            z_channels=32,
            shared_adaln=shared,
            drop_path_rate=0.1 * depth / 24,
        )

    @property
    def shape(self) -> TransformerShape:
        """The sizes alone: what compiler and cycle model need to know."""
        return TransformerShape(
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            hidden=self.hidden,
            vocab=self.vocab,
            patch_nums=self.patch_nums,
        )


@dataclass(frozen=True)
class VqvaeConfig(DictRoundTrip):
    """Shape of the image tokenizer.

    Attributes:
        vocab: codebook entries V.
        z_channels: channels of the latent map and of a codebook entry.
        ch: base channels; ch * every ch_mult entry must be a multiple of 32 (group norm).
        ch_mult: channel multiplier per resolution level, fine to coarse; each level after the
            first halves the resolution.
        num_res_blocks: residual blocks per encoder level (the decoder has one more).
        in_channels: image channels, 3 (RGB) or 1 (grey).
        patch_nums: side of each token map; the last one is the side of the latent map.
        quant_resi: share of the convolution in phi(h) = (1-r) h + r conv(h).
        share_quant_resi: number of phi convolutions shared by the scales; 1 is one for all, 0 is
            one per scale.
        beta: weight of the commitment loss.
        dropout: dropout in the residual blocks (training only).
    """

    vocab: int
    z_channels: int
    ch: int
    patch_nums: tuple[int, ...]
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    in_channels: int = 3
    quant_resi: float = 0.5
    share_quant_resi: int = 4
    beta: float = 0.25
    dropout: float = 0.0

    def __post_init__(self) -> None:
        owner = "VqvaeConfig"
        for name in ("z_channels", "ch", "num_res_blocks"):
            need_int(owner, name, getattr(self, name), 1)
        need_int(owner, "vocab", self.vocab, 2)
        need_int(owner, "share_quant_resi", self.share_quant_resi, 0)
        need_number(owner, "quant_resi", self.quant_resi, 0.0, 1.0)
        need_number(owner, "beta", self.beta, 0.0, 1e6)
        need_number(owner, "dropout", self.dropout, 0.0, 0.99)
        if self.in_channels not in (1, 3):
            raise ConfigError(f"{owner}.in_channels = {self.in_channels!r}: must be 1 or 3")
        object.__setattr__(self, "patch_nums", _scales(owner, self.patch_nums))
        object.__setattr__(self, "ch_mult", whole_numbers(owner, "ch_mult", self.ch_mult))
        for mult in self.ch_mult:
            if self.ch * mult % 32:
                raise ConfigError(
                    f"{owner}.ch = {self.ch} with ch_mult {mult}: {self.ch * mult} channels are "
                    "not a multiple of 32 (group norm has 32 groups); use ch = 32, 64, ..."
                )

    @property
    def downsample(self) -> int:
        """Image side / latent side."""
        return 2 ** (len(self.ch_mult) - 1)

    @property
    def image_size(self) -> int:
        """Side of the image in pixels."""
        return self.patch_nums[-1] * self.downsample

    @classmethod
    def official(cls, patch_nums: tuple[int, ...] = PATCH_NUMS_256) -> VqvaeConfig:
        """The released tokenizer (ch 160, 4096 entries of 32 channels) at the given scales."""
        return cls(vocab=4096, z_channels=32, ch=160, patch_nums=patch_nums)
