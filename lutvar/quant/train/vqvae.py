# SPDX-License-Identifier: Apache-2.0
"""Training of the image tokenizer."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch.nn import functional as F

from lutvar.quant.var import Vqvae, VqvaeConfig

from .data import ImageSet, augment, pick_images
from .loop import ModelStage, Record, cosine_lr, set_lr


@dataclass(frozen=True)
class VqvaePlan:
    """Shape and schedule of the tokenizer's training.

    `restart_every` steps, until `restart_until` of the run, codebook entries that are hardly used
    move to where the data is.
    """

    config: VqvaeConfig
    steps: int
    batch: int = 128
    rate: float = 1e-3
    degrees: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0
    flip: bool = False
    restart_every: int = 25
    restart_until: float = 0.6


class VqvaeStage(ModelStage):
    """Mean squared error plus codebook and commitment loss."""

    name = "vqvae"
    model: Vqvae

    def __init__(self, data: ImageSet, plan: VqvaePlan) -> None:
        self.data, self.plan, self.steps = data, plan, plan.steps
        self.fingerprint = f"vqvae {asdict(plan)}"
        self.model = Vqvae(plan.config)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=plan.rate, betas=(0.9, 0.99), weight_decay=1e-4
        )

    def step(self, index: int) -> Record:
        """One update; returns its losses."""
        plan = self.plan
        images, _, _ = pick_images(self.data, plan.batch, plan.flip)
        images = augment(images, plan.degrees, plan.stretch, plan.shift)
        self.model.train()
        if index % plan.restart_every == 0 and index <= plan.steps * plan.restart_until:
            self._restart_unused(images)
        set_lr(self.optimizer, cosine_lr(index, plan.steps, plan.rate, warmup=100))
        out = self.model(images)
        error = F.mse_loss(out.reconstruction_BCHW, images)
        loss = error + out.vq_loss
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return {"mse": error.item(), "vq_loss": out.vq_loss.item()}

    @torch.no_grad()
    def measure(self) -> Record:
        """Reconstruction error on images that training does not see; codebook entries in use."""
        self.model.eval()
        images, _ = self.data.monitor()
        tokens = self.model.encode(images)
        rebuilt = self.model.decode(tokens) * 2 - 1
        used = len(torch.unique(torch.cat(tokens, dim=1)))
        return {
            "val_mse": F.mse_loss(rebuilt, images).item(),
            "used_entries": used,
        }

    @torch.no_grad()
    def _restart_unused(self, images: torch.Tensor) -> None:
        quantize = self.model.quantize
        usage_V = quantize.ema_vocab_hit_SV.sum(0)
        unused = torch.nonzero(usage_V < 0.05 * usage_V.mean()).flatten()
        if self.optimizer.state and not len(unused):
            return
        cells_NZ = quantize.cells(self.model.features(images))
        if not self.optimizer.state:
            unused = torch.arange(len(usage_V))
        index = torch.randint(len(cells_NZ), (len(unused),))
        quantize.embedding.weight[unused] = cells_NZ[index]
        # A moved entry counts as used until there was time to see.
        quantize.ema_vocab_hit_SV[:, unused] = usage_V.mean() / len(quantize.patch_nums)
