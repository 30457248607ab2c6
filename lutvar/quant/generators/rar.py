# SPDX-License-Identifier: Apache-2.0
"""RAR: one token after the other, with AdaLN that sees the class and the position.

Position 0 holds a learned token, position 1 the class, position p from 2 on token p - 2. Each
input carries the position of its own token and, from position 1 on, that of the token to be drawn,
so that any order can be drawn; generation goes row by row.

Source: RAR (arXiv:2411.00776), section 3, and its released code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.quant.var.sites import LinearSite, SiteName

from .blocks import BlockShape, LinearEntry, TokenInputs
from .config import RarConfig
from .model import TokenModel, one_by_one

_EPS = 1e-6
#: Positions before the first token.
_PREFIX = 2


class Rar(TokenModel):
    """The transformer; see `TokenModel`.

    Positions 0 and 1, which the released code runs in one pass, are two here: each has a static
    range of its own under PTQ4ARVG, and a pass has one.
    """

    family = "RAR"
    lead = 1
    absent: ClassVar[Mapping[SiteName, str]] = {
        "word_embed": "RAR looks its tokens up in a table; leave it out",
        "shared_ada": "RAR has an AdaLN of its own in each block; name ada_lin",
    }
    config: RarConfig

    def __init__(self, config: RarConfig) -> None:
        shape = BlockShape(
            config.width, config.heads, config.hidden, "layer", _EPS,
            bias=True, head_norm=True, adaptive=True, gated=False,
        )  # fmt: skip
        super().__init__(config, shape)
        self.config = config
        self.passes = one_by_one(config.tokens + 1)
        self.regions = (0, 1) + (2,) * (config.tokens - 1)
        self.sink_passes = _PREFIX
        width = config.width
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        # Tokens, one row for masking (not used in generation), classes, the null class.
        self.embeddings = nn.Embedding(config.vocab + 1 + config.num_classes + 1, width)
        positions = config.tokens + config.extra_positions
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.target_aware_pos_embed = nn.Parameter(torch.zeros(1, positions, width))
        self.timesteps_embeddings = nn.Parameter(
            torch.zeros(1, config.tokens + config.extra_steps, width)
        )
        self.head_ada_site = LinearSite(config.depth, "head_ada")
        self.head_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, config.vocab)
        self._initialize()

    def inputs(self, labels_B: Tensor, tokens_BT: Tensor, begin: int, end: int) -> TokenInputs:
        """See `TokenModel.inputs`; row by row."""
        return self.ordered_inputs(labels_B, tokens_BT, begin, end, None)

    def ordered_inputs(
        self,
        labels_B: Tensor,
        tokens_BT: Tensor,
        begin: int,
        end: int,
        orders_BT: Tensor | None,
    ) -> TokenInputs:
        """`inputs` for tokens in any order.

        Args:
            labels_B, begin, end: as of `inputs`.
            tokens_BT: in the order in which they are drawn.
            orders_BT: place of each token in the image, all T of them; None is row by row.
        """
        class_B1C = self.embeddings(labels_B + self.config.vocab + 1).unsqueeze(1)
        held = tokens_BT[:, max(begin - _PREFIX, 0) : max(end - _PREFIX, 0)]
        parts = [self.cls_token.expand(len(labels_B), -1, -1), class_B1C][begin:end]
        x_BlC = torch.cat([*parts, self.embeddings(held)], 1)
        if orders_BT is None:
            orders_BT = torch.arange(self.config.tokens, device=x_BlC.device).unsqueeze(0)
        places_BT = orders_BT + _PREFIX
        prefix = torch.arange(_PREFIX, device=x_BlC.device).expand(len(places_BT), -1)
        own = torch.cat((prefix, places_BT), 1)[:, begin:end]
        x_BlC = x_BlC + self.pos_embed[0][own]
        target_BlC = self.target_aware_pos_embed[0][places_BT[:, max(begin - 1, 0) : end - 1]]
        if begin == 0:
            target_BlC = F.pad(target_BlC, (0, 0, 1, 0))
        cond_BlC = class_B1C + self.timesteps_embeddings[:, begin:end]
        return TokenInputs(x_BlC + target_BlC, cond_BlC)

    def classify(self, x_BlC: Tensor, inputs: TokenInputs) -> Tensor:
        """Norm with AdaLN and head."""
        activation, linear = self.head_ada
        table_BlO = self._linears.linear(self.head_ada_site, activation(inputs.cond_BlC), linear)
        scale_BlC, shift_BlC = table_BlO.chunk(2, -1)
        h_BlC = F.layer_norm(x_BlC, (x_BlC.shape[-1],), eps=_EPS) * (1 + scale_BlC) + shift_BlC
        return self._linears.linear(self.head_site, h_BlC, self.head).float()

    def outer_linears(self) -> Iterator[LinearEntry]:
        """The head and the AdaLN before it."""
        ada = self.head_ada[1]
        assert isinstance(ada, nn.Linear)
        yield self.head_site, self.head.weight, self.head.bias
        yield self.head_ada_site, ada.weight, ada.bias

    @torch.no_grad()
    def _initialize(self) -> None:
        """Starting weights of the released training: small, AdaLN zero, so blocks do nothing."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.trunc_normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                module.bias.zero_()
        for table in (self.pos_embed, self.target_aware_pos_embed, self.timesteps_embeddings):
            nn.init.trunc_normal_(table, std=0.02)
        for sequence in (self.head_ada, *(block.ada_lin for block in self.iter_blocks())):
            linear = sequence[1]
            assert isinstance(linear, nn.Linear)
            linear.weight.zero_()
