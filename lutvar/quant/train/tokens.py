# SPDX-License-Identifier: Apache-2.0
"""Training of a small RAR model: a codebook of patches, then the transformer.

Source: RAR (arXiv:2411.00776), section 3: a share of the samples is drawn in random order, all of
them at first and none in the end; a share of the labels becomes the null class.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.generators import Rar, RarConfig, Sampling, Tokenizer, TokenizerConfig

from .data import ImageSet, augment, pick_images
from .loop import Record, cosine_lr, set_lr

#: Rounds of k-means.
_ROUNDS = 40


@dataclass(frozen=True)
class TokenPlan:
    """Everything a run depends on besides the seed.

    Attributes:
        name: of the model.
        config, tokenizer: the shapes.
        sampling: settings for the report and as the model's defaults.
        steps, batch, rate, weight_decay: of AdamW.
        average: decay of the running mean of the weights, which is the result.
        drop: share of labels that become the null class.
        ordered: share of the steps after which no order is random any more.
        degrees, stretch, shift: as of `data.augment`.
        samples: images of the report.
        finest: steps in a standard deviation with which weights are stored (`var.compact`).
    """

    name: str
    config: RarConfig
    tokenizer: TokenizerConfig
    sampling: Sampling
    steps: int
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.03
    average: float = 0.995
    drop: float = 0.1
    ordered: float = 0.6
    degrees: float = 5.0
    stretch: float = 0.04
    shift: float = 0.25
    samples: int = 500
    finest: float = 6.0


#: As large as the 10 MB of all shipped weights allow.
DIGITS_RAR = TokenPlan(
    name="digits-rar",
    config=RarConfig(
        width=128,
        depth=1,
        heads=2,
        hidden=128,
        vocab=64,
        num_classes=10,
        tokens=16,
        extra_positions=2,
        extra_steps=1,
    ),
    tokenizer=TokenizerConfig("patches", side=4, vocab=64, in_channels=1, patch=2),
    # Of guidance 1 to 3 the one with the least distance at which every sample is judged right.
    sampling=Sampling(cfg=2.0, power=0.0),
    steps=1500,
)
PLANS = {DIGITS_RAR.name: DIGITS_RAR}


@torch.no_grad()
def fit_codebook(data: ImageSet, config: TokenizerConfig) -> Tokenizer:
    """A tokenizer whose codebook is the k-means of the training images' patches.

    Draws from torch's global generator.
    """
    tokenizer = Tokenizer(config).eval().requires_grad_(False)
    maps_BZhw = F.pixel_unshuffle((data.train_images + 1) / 2, config.patch)
    patches_NZ = maps_BZhw.permute(0, 2, 3, 1).flatten(0, 2)
    entries_VZ = patches_NZ[torch.randperm(len(patches_NZ))[: config.vocab]].clone()
    for _ in range(_ROUNDS):
        nearest_N = torch.cdist(patches_NZ, entries_VZ).argmin(1)
        counts_V = nearest_N.bincount(minlength=config.vocab)
        sums_VZ = torch.zeros_like(entries_VZ).index_add_(0, nearest_N, patches_NZ)
        fresh_VZ = patches_NZ[torch.randint(len(patches_NZ), (config.vocab,))]
        means_VZ = sums_VZ / counts_V.clamp_min(1).unsqueeze(1)
        entries_VZ = torch.where(counts_V.unsqueeze(1) > 0, means_VZ, fresh_VZ)
    tokenizer.codebook.weight.copy_(entries_VZ)
    return tokenizer


class TokenStage:
    """Cross entropy over the tokens of an image, with teacher forcing in random orders."""

    name = "rar"

    def __init__(self, data: ImageSet, tokenizer: Tokenizer, plan: TokenPlan) -> None:
        self.data, self.tokenizer, self.plan, self.steps = data, tokenizer, plan, plan.steps
        trained = replace(plan, sampling=Sampling(), samples=0, finest=0.0)  # what weights rest on
        self.fingerprint = f"rar {asdict(trained)}"
        self.model = Rar(plan.config)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        parameters = list(self.model.parameters())
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.dim() == 2], "weight_decay": plan.weight_decay},
            {"params": [p for p in parameters if p.dim() != 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=plan.rate, betas=(0.9, 0.96))
        images, self._val_labels = data.monitor()
        self._val_tokens = tokenizer.encode((images + 1) / 2)

    def step(self, index: int) -> Record:
        """One teacher-forced update; returns its loss."""
        plan, config = self.plan, self.plan.config
        images, labels_B, _ = pick_images(self.data, plan.batch)
        images = augment(images, plan.degrees, plan.stretch, plan.shift)
        tokens_BT = self.tokenizer.encode((images + 1) / 2)
        null_B = torch.full_like(labels_B, config.num_classes)
        dropped_B = torch.rand(plan.batch, dtype=torch.float32) < plan.drop
        labels_B = torch.where(dropped_B, null_B, labels_B)
        orders_BT = self._orders(max(0.0, 1 - index / (plan.steps * plan.ordered)))
        target_BT = tokens_BT.gather(1, orders_BT)
        inputs = self.model.ordered_inputs(labels_B, target_BT, 0, self.model.positions, orders_BT)
        logits_BTV = self.model.run(inputs)[:, self.model.lead :]
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), target_BT.flatten())
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        set_lr(self.optimizer, cosine_lr(index, plan.steps, plan.rate, warmup=100))
        self.optimizer.step()
        decay = min(plan.average, (1 + index) / (10 + index))
        with torch.no_grad():
            pairs = zip(self.averaged.parameters(), self.model.parameters(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, 1 - decay)
        return {"loss": loss.item()}

    def _orders(self, share: float) -> Tensor:
        """Row by row, or for about this share of the samples at random, [B, T]."""
        count, total = self.plan.batch, self.plan.config.tokens
        random_BT = torch.rand(count, total, dtype=torch.float32).argsort(1)
        chosen_B1 = torch.rand(count, 1, dtype=torch.float32) < share
        return torch.where(chosen_B1, random_BT, torch.arange(total))

    @torch.no_grad()
    def measure(self) -> Record:
        """Loss of the averaged model on the validation images, row by row."""
        logits_BTV = self.averaged(self._val_labels, self._val_tokens)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), self._val_tokens.flatten())
        return {"val_loss": loss.item()}

    def state(self) -> dict[str, Any]:
        """What `load` needs to continue."""
        return {
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "codebook": self.tokenizer.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.tokenizer.load_state_dict(state["codebook"])
        self.optimizer.load_state_dict(state["optimizer"])
