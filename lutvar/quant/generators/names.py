# SPDX-License-Identifier: Apache-2.0
"""Released names of parameters and those of this package.

A released file is compared with the model's expected names and shapes, both ways, before a tensor
moves. Where one linear here is several in the release (PAR's w1 and w3, the tokenizer's q, k and v)
their rows follow each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

#: (name here, released name or names) of parts of a parameter's name, in the order of trial.
Renames = Sequence[tuple[str, str | tuple[str, ...]]]

RAR: Renames = (
    ("head_ada.", "adaln_before_head.adaLN_modulation."),
    (".ada_lin.", ".adaLN_modulation."),
    ("head.", "lm_head."),
)
PAR: Renames = (
    ("blocks.", "layers."),
    (".attn.qkv.", ".attention.wqkv."),
    (".attn.proj.", ".attention.wo."),
    (".mlp.fc1.", (".feed_forward.w1.", ".feed_forward.w3.")),
    (".mlp.fc2.", ".feed_forward.w2."),
    (".norm1.", ".attention_norm."),
    (".norm2.", ".ffn_norm."),
    ("cls_embedding.", "cls_embedding.embedding_table."),
    ("spe_tok_embeddings.", "spe_tok_embeddings.special_embeddings."),
    ("head.", "output."),
)

MASKGIT: Renames = (
    ("codebook.", "quantize.embedding."),
    (".upsample.conv.", ".upsample_conv."),
)


def vq16(levels: int) -> Renames:
    """Of the VQ-16 tokenizer, which counts the decoder's levels from the coarse end."""
    last = levels - 1
    return (
        ("codebook.", "quantize.embedding."),
        *((f"decoder.up.{i}.", f"decoder.conv_blocks.{last - i}.") for i in range(levels)),
        ("encoder.down.", "encoder.conv_blocks."),
        (".block.", ".res."),
        (".mid.block_1.", ".mid.0."),
        (".mid.attn_1.", ".mid.1."),
        (".mid.block_2.", ".mid.2."),
        (".qkv.", (".q.", ".k.", ".v.")),
    )


def released_names(name: str, renames: Renames) -> tuple[str, ...]:
    """Released names of a parameter; several when its rows are spread over them.

    A rename whose name here begins with a dot applies inside a name, any other one to its start.
    """
    names: tuple[str, ...] = (name,)
    for ours, theirs in renames:
        parts = (theirs,) if isinstance(theirs, str) else theirs
        inside = ours.startswith(".")
        if (ours in name) if inside else name.startswith(ours):
            names = tuple(old.replace(ours, part, 1) for old in names for part in parts)
    return names


def released_shapes(state: Mapping[str, Tensor], renames: Renames) -> dict[str, list[int]]:
    """Released name -> shape of everything in a model's state."""
    shapes: dict[str, list[int]] = {}
    for name, value in state.items():
        parts = released_names(name, renames)
        rows = [value.shape[0] // len(parts), *value.shape[1:]] if value.dim() else []
        shapes |= {part: rows for part in parts}
    return shapes


def from_released(
    names: Sequence[str], released: Mapping[str, Tensor], renames: Renames
) -> dict[str, Tensor]:
    """The state of a model with these names from released tensors, all of which must be there."""
    state = {}
    for name in names:
        parts = [released[part] for part in released_names(name, renames)]
        state[name] = parts[0] if len(parts) == 1 else torch.cat(parts)
    return state


def to_released(state: Mapping[str, Tensor], renames: Renames) -> dict[str, Tensor]:
    """The tensors of a model under their released names."""
    released: dict[str, Tensor] = {}
    for name, value in state.items():
        parts = released_names(name, renames)
        released |= dict(zip(parts, value.chunk(len(parts)), strict=True))
    return released
