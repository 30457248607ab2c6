# SPDX-License-Identifier: Apache-2.0
"""Shapes of RAR and PAR, the released sizes, and how each of those was sampled for its figures.

Sources: RAR (arXiv:2411.00776), table 1 and its released configuration; PAR (arXiv:2412.15119) and
its released scripts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lutvar.quant.var.config import WIDTH_MULTIPLE, ConfigError
from lutvar.quant.var.config_values import DictRoundTrip, need_int, need_number, whole_numbers


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn from logits.

    Attributes:
        cfg: guidance g of `u + g (c - u)`; 1 is the conditional model alone.
        power: with it guidance rises from 1 to cfg by `(1 - cos(pi (token / tokens)**power)) / 2`
            (RAR); None is constant.
        temperature: logits are divided by it.
        top_k: draw among the k most likely tokens; 0 is all.
        top_p: draw among the most likely tokens of this total probability; 0 is all.
    """

    cfg: float = 1.0
    power: float | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0


@dataclass(frozen=True)
class RarConfig(DictRoundTrip):
    """Shape of a RAR transformer.

    Attributes:
        width: channels C; a multiple of 128 and of `heads`.
        depth: blocks.
        heads: attention heads.
        hidden: channels of the MLP.
        vocab: codebook entries V.
        num_classes: classes without the null class.
        tokens: tokens of an image, T; a square.
        extra_positions: entries of the position tables beyond T, at least 2.
        extra_steps: entries of the table of time steps beyond T, at least 1.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    vocab: int = 1024
    num_classes: int = 1000
    tokens: int = 256
    extra_positions: int = 1024
    extra_steps: int = 100

    def __post_init__(self) -> None:
        _check(self, {"extra_positions": 2, "extra_steps": 1})

    @classmethod
    def official(cls, name: str) -> RarConfig:
        """A released size of `RAR_SIZES`. Raises ConfigError for another name."""
        return cls(*_size("RAR", name, RAR_SIZES))


@dataclass(frozen=True)
class ParConfig(DictRoundTrip):
    """Shape of a PAR transformer.

    Attributes:
        width, depth, heads, hidden, vocab, num_classes, tokens: as of `RarConfig`.
        group: tokens drawn at a time, n; a square that divides T. The first n are drawn one by
            one, and n - 1 learned inputs stand before the first group.
        base: of the rotary positions.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    vocab: int = 16384
    num_classes: int = 1000
    tokens: int = 576
    group: int = 4
    base: float = 10000.0

    def __post_init__(self) -> None:
        _check(self, {"group": 4})
        need_number("ParConfig", "base", self.base, 1.0, 1e9)
        regions, side = round(self.group**0.5), round(self.tokens**0.5)
        if regions**2 != self.group or side % regions or self.tokens == self.group:
            raise ConfigError(
                f"ParConfig.group = {self.group}: must be a square whose root divides the side of "
                f"{side} tokens, and less than all {self.tokens}; 4 for example"
            )
        if self.width // self.heads % 4:
            raise ConfigError(
                f"ParConfig.heads = {self.heads}: heads of {self.width // self.heads} channels; "
                "rotary positions in two dimensions need a multiple of 4"
            )

    @classmethod
    def official(cls, name: str) -> ParConfig:
        """A released size of `PAR_SIZES`. Raises ConfigError for another name."""
        width, depth, heads, hidden, group = _size("PAR", name, PAR_SIZES)
        return cls(width, depth, heads, hidden, group=group)


@dataclass(frozen=True)
class TokenizerConfig(DictRoundTrip):
    """Shape of an image tokenizer with one token map.

    Attributes:
        kind: "maskgit" (MaskGIT-VQGAN, RAR's), "vq16" (LlamaGen's VQ-16, PAR's) or "patches" (a
            codebook of square patches of pixels, no network).
        side: side of the token map.
        vocab: codebook entries V.
        z_channels: channels of the latent map.
        code_channels: channels of a codebook entry; "maskgit" has those of the latent map.
        ch: base channels; ch * every ch_mult entry must be a multiple of 32 (group norm).
        ch_mult: channel multiplier per resolution level, fine to coarse.
        num_res_blocks: residual blocks per encoder level.
        in_channels: image channels.
        dropout: in the residual blocks (training only).
        patch: side of a patch in pixels, of "patches".
    """

    kind: Literal["maskgit", "vq16", "patches"]
    side: int
    vocab: int
    z_channels: int = 256
    code_channels: int = 256
    ch: int = 128
    ch_mult: tuple[int, ...] = (1, 1, 2, 2, 4)
    num_res_blocks: int = 2
    in_channels: int = 3
    dropout: float = 0.0
    patch: int = 1

    def __post_init__(self) -> None:
        owner = "TokenizerConfig"
        if self.kind not in ("maskgit", "vq16", "patches"):
            raise ConfigError(f"{owner}.kind = {self.kind!r}: must be maskgit, vq16 or patches")
        for name in ("side", "z_channels", "code_channels", "ch", "num_res_blocks", "patch"):
            need_int(owner, name, getattr(self, name), 1)
        need_int(owner, "vocab", self.vocab, 2)
        if self.in_channels not in (1, 3):
            raise ConfigError(f"{owner}.in_channels = {self.in_channels!r}: must be 1 or 3")
        object.__setattr__(self, "ch_mult", whole_numbers(owner, "ch_mult", self.ch_mult))
        for mult in self.ch_mult:
            if self.ch * mult % 32:
                raise ConfigError(
                    f"{owner}.ch = {self.ch} with ch_mult {mult}: not a multiple of 32 channels"
                )

    @classmethod
    def official(cls, kind: Literal["maskgit", "vq16"]) -> TokenizerConfig:
        """The released tokenizer of RAR (256 pixels) or of PAR (384 pixels)."""
        if kind == "maskgit":
            return cls(kind, side=16, vocab=1024)
        return cls(kind, side=24, vocab=16384, code_channels=8)

    @property
    def image_size(self) -> int:
        """Side of the image in pixels."""
        if self.kind == "patches":
            return self.side * self.patch
        return self.side << (len(self.ch_mult) - 1)


#: Released RAR sizes: width, blocks, heads, hidden.
RAR_SIZES: dict[str, tuple[int, ...]] = {
    "rar_b": (768, 24, 16, 3072),
    "rar_l": (1024, 24, 16, 4096),
    "rar_xl": (1280, 32, 16, 5120),
    "rar_xxl": (1408, 40, 16, 6144),
}
#: Released PAR sizes: width, blocks, heads, hidden, tokens at a time.
PAR_SIZES: dict[str, tuple[int, ...]] = {
    "PAR-XL-4x": (1280, 36, 20, 3584, 4),
    "PAR-XXL-4x": (1536, 48, 24, 4096, 4),
    "PAR-3B-4x": (3200, 24, 32, 8704, 4),
    "PAR-3B-16x": (3200, 24, 32, 8704, 16),
}
#: Sampling of the published figures.
SAMPLING: dict[str, Sampling] = {
    "rar_b": Sampling(16.0, 2.75, 1.0),
    "rar_l": Sampling(15.5, 2.5, 1.02),
    "rar_xl": Sampling(6.9, 1.5, 1.02),
    "rar_xxl": Sampling(8.0, 1.2, 1.02),
    "PAR-XL-4x": Sampling(1.5),
    "PAR-XXL-4x": Sampling(1.435),
    "PAR-3B-4x": Sampling(1.345),
    "PAR-3B-16x": Sampling(1.5),
}


def released_name(config: RarConfig | ParConfig) -> str | None:
    """Name of the released size that has this shape, or None."""
    for name in SAMPLING:
        cls = RarConfig if name in RAR_SIZES else ParConfig
        if cls.official(name) == config:
            return name
    return None


def _check(config: RarConfig | ParConfig, further: dict[str, int]) -> None:
    """What both kinds of configuration must fulfil."""
    owner = type(config).__name__
    lows = {"width": 1, "depth": 1, "heads": 1, "hidden": 1, "vocab": 2, "num_classes": 1}
    for name, low in (lows | {"tokens": 4} | further).items():
        need_int(owner, name, getattr(config, name), low)
    if config.width % WIDTH_MULTIPLE or config.hidden % WIDTH_MULTIPLE:
        raise ConfigError(
            f"{owner}: width {config.width} and hidden {config.hidden} must be multiples of "
            f"{WIDTH_MULTIPLE}, the groups of the quantizers"
        )
    if config.width % config.heads:
        raise ConfigError(f"{owner}.heads = {config.heads}: must divide the width, {config.width}")
    if round(config.tokens**0.5) ** 2 != config.tokens:
        raise ConfigError(f"{owner}.tokens = {config.tokens}: must be a square, such as 256")


def _size(family: str, name: str, sizes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    if name not in sizes:
        raise ConfigError(f"{family} size {name!r}: known are {', '.join(sizes)}")
    return sizes[name]
