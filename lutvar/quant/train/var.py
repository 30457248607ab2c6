# SPDX-License-Identifier: Apache-2.0
"""Training of the transformer on the tokens of a trained tokenizer.

Source: VAR (arXiv:2404.02905), section 3.2 and its released recipe (AdamW with betas 0.9/0.95,
label dropping for guidance); the averaged weights are this project's choice.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.var import Var, VarConfig, Vqvae

from .data import Digits, augment
from .loop import Record, cosine_rate, set_rate


@dataclass(frozen=True)
class VarPlan:
    """Shape and schedule of the transformer's training.

    `average` is the decay of the running mean of the weights, which is the result.
    """

    config: VarConfig
    steps: int
    batch: int = 128
    rate: float = 2e-3
    weight_decay: float = 0.05
    label_smooth: float = 0.0
    average: float = 0.998
    degrees: float = 0.0
    stretch: float = 0.0
    shift: float = 0.0


class VarStage:
    """Cross entropy over the tokens of all scales, with teacher forcing."""

    name = "var"

    def __init__(self, data: Digits, vqvae: Vqvae, plan: VarPlan, vqvae_tag: str = "") -> None:
        self.data, self.vqvae, self.plan, self.steps = (
            data,
            vqvae.eval(),
            plan,
            plan.steps,
        )
        self.fingerprint = f"var {asdict(plan)} on {vqvae_tag}"
        self.model = Var(plan.config)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        decay = [p for p in self.model.parameters() if p.dim() == 2]
        plain = [p for p in self.model.parameters() if p.dim() != 2]
        groups: list[dict[str, Any]] = [
            {"params": decay, "weight_decay": plan.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.95))
        self._val = self._tokenize(data.val_images)

    def step(self, index: int) -> Record:
        plan = self.plan
        pick = torch.randint(len(self.data.train_labels), (plan.batch,))
        images = self.data.train_images[pick]
        images = augment(images, plan.degrees, plan.stretch, plan.shift)
        inputs, target = self._tokenize(images)
        self.model.train()
        set_rate(self.optimizer, cosine_rate(index, plan.steps, plan.rate, warmup=100))
        logits = self.model(self.data.train_labels[pick], inputs)
        loss = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), label_smoothing=plan.label_smooth
        )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self._update_average(index)
        return {"loss": loss.item()}

    @torch.no_grad()
    def measure(self) -> Record:
        inputs, target = self._val
        logits = self.averaged(self.data.val_labels, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return {"val_loss": loss.item()}

    @torch.no_grad()
    def _update_average(self, index: int) -> None:
        # A young average forgets faster, so that it leaves the starting weights behind.
        decay = min(self.plan.average, (1 + index) / (10 + index))
        for mean, value in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    @torch.no_grad()
    def _tokenize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher inputs [B, L - 1, Z] and target tokens [B, L]."""
        tokens = self.vqvae.encode(images)
        return self.vqvae.quantize.teacher_inputs(tokens), torch.cat(tokens, dim=1)

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
