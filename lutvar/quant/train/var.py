# SPDX-License-Identifier: Apache-2.0
"""Training of the transformer on the tokens of a trained tokenizer.

Source: VAR (arXiv:2404.02905), section 3.2 and its released recipe (AdamW with betas 0.9/0.95,
label dropping for guidance); the averaged weights, Muon for the block linears (K. Jordan, 2024) and
growing in depth are this project's choice.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.var import Var, VarConfig, Vqvae

from .data import ImageSet, augment, pick_images
from .grow import deepened
from .loop import Record, cosine_lr, set_lr
from .muon import Muon


@dataclass(frozen=True)
class VarPlan:
    """Shape and schedule of the transformer's training.

    `average` is the decay of the running mean of the weights, which is the result. With `muon` the
    block linears are trained by Muon, everything else by AdamW. With `grow_at` above 0 the first
    steps train a model of half the depth, see `grow.deepened`. With `short_steps` every second step
    leaves out the finest scale, which has about half of the tokens.
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
    flip: bool = False
    muon: bool = False
    grow_at: int = 0
    short_steps: bool = False


class VarStage:
    """Cross entropy over the tokens of all scales, with teacher forcing."""

    name = "var"

    def __init__(self, data: ImageSet, vqvae: Vqvae, plan: VarPlan, vqvae_tag: str = "") -> None:
        self.data, self.vqvae, self.plan, self.steps = (
            data,
            vqvae.eval(),
            plan,
            plan.steps,
        )
        self.fingerprint = f"var {asdict(plan)} on {vqvae_tag}"
        start = plan.config
        if plan.grow_at:
            start = replace(start, depth=start.depth // 2)
        self._take(Var(start))
        # Tokens of every training image and its mirror image, filled in as they are needed.
        self._tokens = torch.full(
            (2 * len(data.train_labels), plan.config.tokens), -1, dtype=torch.int16
        )
        images, self._val_labels = data.monitor()
        self._val = self._inputs(torch.cat(self.vqvae.encode(images), 1))

    def _take(self, model: Var) -> None:
        """Train this model from here on."""
        self.model = model
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        linears: list[Tensor] = []
        if self.plan.muon:
            linears = [weight for _, weight, _ in model.iter_sites()]
        others = [p for p in model.parameters() if not any(p is w for w in linears)]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in others if p.dim() == 2], "weight_decay": self.plan.weight_decay},
            {"params": [p for p in others if p.dim() != 2], "weight_decay": 0.0},
        ]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=self.plan.rate, betas=(0.9, 0.95))
        ]
        if linears:
            self.optimizers.append(Muon(linears, self.plan.rate, self.plan.weight_decay))

    def step(self, index: int) -> Record:
        """One teacher-forced update; returns its loss."""
        plan = self.plan
        if plan.grow_at and index == plan.grow_at:
            self._take(deepened(self.model))
        images, labels, which = pick_images(self.data, plan.batch, plan.flip)
        inputs, target = self._inputs(self._tokenize(images, which))
        if plan.short_steps and index % 2:
            finest = plan.config.patch_nums[-1] ** 2
            inputs, target = inputs[:, :-finest], target[:, :-finest]
        self.model.train()
        lr = cosine_lr(index, plan.steps, plan.rate, warmup=100)
        logits = self.model(labels, inputs)
        loss = F.cross_entropy(
            logits.flatten(0, 1), target.flatten(), label_smoothing=plan.label_smooth
        )
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        for optimizer in self.optimizers:
            set_lr(optimizer, lr)
            optimizer.step()
        self._update_average(index)
        return {"loss": loss.item()}

    @torch.no_grad()
    def measure(self) -> Record:
        """Loss of the averaged model on the validation images."""
        inputs, target = self._val
        logits = self.averaged(self._val_labels, inputs)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return {"val_loss": loss.item()}

    @torch.no_grad()
    def _update_average(self, index: int) -> None:
        # A young average forgets faster, so that it leaves the starting weights behind.
        decay = min(self.plan.average, (1 + index) / (10 + index))
        for mean, value in zip(self.averaged.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    @torch.no_grad()
    def _tokenize(self, images: Tensor, which: Tensor) -> Tensor:
        """Tokens [B, L]. Images as they are in the data set are coded once, then remembered."""
        plan = self.plan
        if plan.degrees or plan.stretch or plan.shift:
            moved = augment(images, plan.degrees, plan.stretch, plan.shift)
            return torch.cat(self.vqvae.encode(moved), 1)
        new = self._tokens[which, 0] < 0
        if new.any():
            self._tokens[which[new]] = torch.cat(self.vqvae.encode(images[new]), 1).short()
        return self._tokens[which].long()

    @torch.no_grad()
    def _inputs(self, tokens_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Teacher inputs [B, L - 1, Z] and the tokens."""
        parts = tokens_BL.split([p * p for p in self.plan.config.patch_nums], 1)
        return self.vqvae.quantize.teacher_inputs(list(parts)), tokens_BL

    def state(self) -> dict[str, Any]:
        """What `load` needs to continue."""
        return {
            "depth": self.model.config.depth,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        if state["depth"] != self.model.config.depth:
            self._take(Var(self.plan.config))
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
