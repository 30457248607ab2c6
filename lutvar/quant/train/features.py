# SPDX-License-Identifier: Apache-2.0
"""Training of the small CIFAR-10 network on whose features samples are judged.

Source: the schedule of fast CIFAR-10 training (D. Page, "How to train your ResNet", 2018): SGD
with Nesterov momentum, one rise and fall of the rate, mirrored and shifted images.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.quant.models.classifier import DigitClassifier
from lutvar.quant.models.features import ConvShape, FeatureNet

from .classifier import ClassifierStage
from .data import ImageSet, pick_images
from .loop import ModelStage, Record, cosine_lr, set_lr

#: Largest shift of an image in pixels, either way.
_SHIFT = 3


class NormedNet(FeatureNet):
    """The network with batch norm behind each convolution."""

    def convolution(self, shape: ConvShape) -> nn.Module:
        """A convolution and its batch norm."""
        return nn.Sequential(
            nn.Conv2d(shape.channels_in, shape.channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(shape.channels_out),
        )

    @torch.no_grad()
    def folded(self) -> FeatureNet:
        """The same function (in evaluation mode) with batch norm inside the convolutions."""
        plain = FeatureNet()
        for name, pair in self.convolutions.items():
            assert isinstance(pair, nn.Sequential)
            conv, norm, target = pair[0], pair[1], plain.convolutions[name]
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert isinstance(target, nn.Conv2d) and target.bias is not None
            assert norm.running_mean is not None and norm.running_var is not None
            gain = norm.weight / (norm.running_var + norm.eps).sqrt()
            target.weight.copy_(conv.weight * gain[:, None, None, None])
            target.bias.copy_(norm.bias - norm.running_mean * gain)
        plain.out.load_state_dict(self.out.state_dict())
        return plain.eval()


_DECAY = 5e-4  #: of weights


class FeatureStage(ModelStage):
    """Training of the network; `result` is what is saved."""

    name = "classifier"
    model: NormedNet

    def __init__(
        self,
        data: ImageSet,
        steps: int,
        batch: int = 256,
        lr: float = 0.2,
    ) -> None:
        self.data, self.steps, self.batch, self.lr = data, steps, batch, lr
        self.fingerprint = (
            f"features steps={steps} batch={batch} rate={lr} decay={_DECAY} shift={_SHIFT}"
        )
        self.model = NormedNet()
        # torch's annotations lack this form.
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        decay = [p for p in self.model.parameters() if p.dim() > 1]
        plain = [p for p in self.model.parameters() if p.dim() == 1]
        groups: list[dict[str, Any]] = [
            {"params": decay, "weight_decay": _DECAY},
            {"params": plain, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, nesterov=True)

    def step(self, index: int) -> Record:
        """One update; returns its loss."""
        images, labels, _ = pick_images(self.data, self.batch, flip=True)
        self.model.train()
        lr = cosine_lr(index, self.steps, self.lr, warmup=self.steps // 5)
        set_lr(self.optimizer, lr)
        loss = F.cross_entropy(self.model((shifted(images, _SHIFT) + 1) / 2), labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"loss": loss.item()}

    @torch.no_grad()
    def measure(self) -> Record:
        """Accuracy on images that training does not see."""
        self.model.eval()
        images, labels = self.data.monitor()
        right = self.model((images + 1) / 2).argmax(1) == labels
        return {"val_accuracy": right.float().mean().item()}

    def result(self) -> FeatureNet:
        """The network as it is saved: batch norm folded."""
        return self.model.eval().folded()


def judge_stage(data: ImageSet, steps: int) -> ClassifierStage | FeatureStage:
    """The training of the judge that fits the images.

    Raises:
        ValueError: images that no judge here takes.
    """
    shape = tuple(data.train_images.shape[1:])
    if shape == DigitClassifier.image_shape:
        return ClassifierStage(data, steps)
    if shape == FeatureNet.image_shape:
        return FeatureStage(data, steps)
    raise ValueError(
        f"images of shape {shape}: judges take {DigitClassifier.image_shape} or "
        f"{FeatureNet.image_shape}"
    )


def shifted(image_BCHW: Tensor, max_shift: int) -> Tensor:
    """Each image moved by whole pixels, up to `most` on each axis; mirrored edges fill in.

    Draws from torch's global generator.
    """
    B, _, H, W = image_BCHW.shape
    padded = F.pad(image_BCHW, (max_shift, max_shift, max_shift, max_shift), mode="reflect")
    top, left = torch.randint(2 * max_shift + 1, (2, B)).unbind()
    rows = (top[:, None] + torch.arange(H))[:, :, None]
    columns = (left[:, None] + torch.arange(W))[:, None, :]
    picked_BHWC = padded[torch.arange(B)[:, None, None], :, rows, columns]
    return picked_BHWC.permute(0, 3, 1, 2)
