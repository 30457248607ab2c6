# SPDX-License-Identifier: Apache-2.0
"""Training of the classifier that judges generated images."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from lutvar.quant.models.classifier import DigitClassifier, agreement

from .data import ImageSet, augment
from .loop import ModelStage, Record, cosine_lr, set_lr

_LR = 2e-3  #: of learning, at its peak


class ClassifierStage(ModelStage):
    """Training of the classifier."""

    name = "classifier"
    model: DigitClassifier

    def __init__(self, data: ImageSet, steps: int, batch: int = 128) -> None:
        self.data, self.steps, self.batch = data, steps, batch
        self.fingerprint = f"classifier steps={steps} batch={batch} rate={_LR}"
        self.model = DigitClassifier()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=_LR, weight_decay=1e-2)

    def step(self, index: int) -> Record:
        """One update; returns its loss."""
        pick = torch.randint(len(self.data.train_labels), (self.batch,))
        images = augment(self.data.train_images[pick], degrees=10, stretch=0.08, shift=0.5)
        self.model.train()
        set_lr(self.optimizer, cosine_lr(index, self.steps, _LR, warmup=50))
        loss = F.cross_entropy(self.model((images + 1) / 2), self.data.train_labels[pick])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    def measure(self) -> Record:
        """Accuracy on the validation images."""
        self.model.eval()
        return {"val_accuracy": agreement(self.model, self.data.val_images, self.data.val_labels)}

    def result(self) -> DigitClassifier:
        """The network as it is saved."""
        return self.model
