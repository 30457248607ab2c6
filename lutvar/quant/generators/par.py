# SPDX-License-Identifier: Apache-2.0
"""PAR: distant tokens in groups, each group at once, on a transformer of the Llama kind.

The image is divided into n equal regions. Tokens go cell by cell, and of each cell one token of
every region, so that the n tokens of a group lie far apart. Position 0 holds the class, positions 1
to n the first n tokens, which are drawn one by one; n - 1 learned inputs follow, so that position n
and these make the first group's n inputs; from position 2 n on position p holds token p - n.
Positions inside a group see each other.

Source: PAR (arXiv:2412.15119), section 3, and its released code, which builds on LlamaGen
(arXiv:2406.06525).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from lutvar.quant.var.sites import SiteName

from .blocks import BlockShape, LinearEntry, RmsNorm, TokenInputs
from .config import ParConfig
from .model import TokenModel, one_by_one

_EPS = 1e-5


def token_places(tokens: int, group: int) -> Tensor:
    """Row and column of each token in the order in which they are drawn, [T, 2]."""
    regions = round(group**0.5)
    cells = round(tokens**0.5) // regions
    axis = torch.arange(regions * cells).view(regions, cells)
    row, column = torch.meshgrid(axis.flatten(), axis.flatten(), indexing="ij")
    places = torch.stack((row, column), -1).view(regions, cells, regions, cells, 2)
    return places.permute(1, 3, 0, 2, 4).reshape(tokens, 2)


def image_order(tokens_BT: Tensor, group: int) -> Tensor:
    """The same tokens row by row."""
    total = tokens_BT.shape[1]
    row, column = token_places(total, group).to(tokens_BT.device).unbind(1)
    ordered = torch.empty_like(tokens_BT)
    ordered[:, row * round(total**0.5) + column] = tokens_BT
    return ordered


def rotary_table(config: ParConfig) -> Tensor:
    """Cosine and sine at every position, [positions, c / 2, 2]; 0 at class and learned inputs.

    The first half of a head's pairs turns with the row, the second with the column.
    """
    half = config.width // config.heads // 2
    speed = 1.0 / config.base ** (torch.arange(0, half, 2).float() / half)
    angles_T2c = token_places(config.tokens, config.group).unsqueeze(-1) * speed
    angles_Tc = angles_T2c.flatten(1)
    table = torch.stack((angles_Tc.cos(), angles_Tc.sin()), -1)
    none = table.new_zeros(config.group - 1, half, 2)
    first = config.group
    return torch.cat((table.new_zeros(1, half, 2), table[:first], none, table[first:]))


class Par(TokenModel):
    """The transformer; see `TokenModel`. fc1 is the released w1 on top of w3, fc2 is w2."""

    family = "PAR"
    lead = 0
    absent: ClassVar[Mapping[SiteName, str]] = {
        "word_embed": "PAR looks its tokens up in a table; leave it out",
        "ada_lin": "PAR has no AdaLN; leave it out",
        "head_ada": "PAR has no AdaLN; leave it out",
        "shared_ada": "PAR has no AdaLN; leave it out",
    }
    config: ParConfig
    rotary: Tensor

    def __init__(self, config: ParConfig) -> None:
        shape = BlockShape(
            config.width, config.heads, config.hidden, "rms", _EPS,
            bias=False, head_norm=False, adaptive=False, gated=True,
        )  # fmt: skip
        super().__init__(config, shape)
        self.config = config
        n, total = config.group, config.tokens
        groups = tuple((begin, begin + n) for begin in range(n, total, n))
        self.passes = (*one_by_one(n), *groups)
        self.regions = (*range(n + 1), *((n + 1,) * (len(groups) - 1)))
        self.sink_passes = n + 1
        self.cls_embedding = nn.Embedding(config.num_classes + 1, config.width)
        self.tok_embeddings = nn.Embedding(config.vocab, config.width)
        self.spe_tok_embeddings = nn.Embedding(n - 1, config.width)
        self.norm = RmsNorm(config.width, _EPS)
        self.head = nn.Linear(config.width, config.vocab, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        with torch.device("cpu"):
            self.register_buffer("rotary", rotary_table(config), persistent=False)

    def inputs(self, labels_B: Tensor, tokens_BT: Tensor, begin: int, end: int) -> TokenInputs:
        """See `TokenModel.inputs`."""
        n = self.config.group
        ranges = ((0, 1), (1, n + 1), (n + 1, 2 * n), (2 * n, self.positions))
        parts = []
        for kind, (first, last) in enumerate(ranges):
            a, b = max(begin, first), min(end, last)
            if a >= b:
                continue
            if kind == 0:
                parts.append(self.cls_embedding(labels_B).unsqueeze(1))
            elif kind == 2:
                learned = self.spe_tok_embeddings.weight[a - first : b - first]
                parts.append(learned.expand(len(labels_B), -1, -1))
            else:
                behind = 1 if kind == 1 else n
                parts.append(self.tok_embeddings(tokens_BT[:, a - behind : b - behind]))
        rotary = self.rotary[begin:end].to(parts[0].device)
        return TokenInputs(torch.cat(parts, 1), rotary_lc2=rotary)

    def classify(self, x_BlC: Tensor, inputs: TokenInputs) -> Tensor:
        """Norm and head."""
        return self._linears.linear(self.head_site, self.norm(x_BlC), self.head).float()

    def outer_linears(self) -> Iterator[LinearEntry]:
        """The head."""
        yield self.head_site, self.head.weight, self.head.bias
