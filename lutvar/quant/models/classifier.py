# SPDX-License-Identifier: Apache-2.0
"""A small convolutional digit classifier, and the files of this and other judges of images."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from lutvar.files import json_text, write_file
from lutvar.quant.var.tensors import rounded, tensor_bytes
from lutvar.quant.var.unfilled import unfilled

from .features import FeatureNet
from .judge import Judge, agreement

__all__ = ["DigitClassifier", "agreement", "load_classifier", "save_classifier"]


class DigitClassifier(Judge):
    """Two convolutions and two linears, 8x8 grey images to 10 classes."""

    kind = "digits"
    image_shape = (1, 8, 8)
    width = 64

    def __init__(self, channels: int = 32) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.hidden = nn.Linear(channels * 16, self.width)
        self.out = nn.Linear(self.width, 10)

    def features(self, image_BCHW: Tensor) -> Tensor:
        """[B, 64] features before the last linear, for images [B, 1, 8, 8] in [0, 1]."""
        h = F.relu(self.conv1(image_BCHW * 2 - 1))
        h = F.max_pool2d(F.relu(self.conv2(h)), 2)
        h = F.dropout(h.flatten(1), 0.3, self.training)
        return F.relu(self.hidden(h))


#: Judges by the name in their files; files without one are of the first.
_KINDS: dict[str, type[DigitClassifier] | type[FeatureNet]] = {
    DigitClassifier.kind: DigitClassifier,
    FeatureNet.kind: FeatureNet,
}
_METADATA = "lutvar"


def save_classifier(path: str | Path, model: Judge) -> None:
    """Write the weights as float16 safetensors, atomically."""
    # The digits' file had no mark when it was made.
    marked = {} if model.kind == DigitClassifier.kind else {"classifier": model.kind}
    metadata = {_METADATA: json_text(marked)} if marked else None
    write_file(path, tensor_bytes(model.state_dict(), metadata, torch.float16))


def load_classifier(path: str | Path) -> Judge:
    """Load a saved classifier in float32 and evaluation mode.

    Raises:
        ValueError: a file that is marked as of a network unknown here.
    """
    with safe_open(path, framework="pt") as file:
        marked = json.loads((file.metadata() or {}).get(_METADATA, "{}"))
        stored = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    kind = marked.get("classifier", DigitClassifier.kind)
    if kind not in _KINDS:
        raise ValueError(
            f"{path}: holds a classifier of kind {kind!r}; known are {', '.join(_KINDS)}"
        )
    with unfilled():  # its parameters are those of the file, whatever the default type
        model: Judge = _KINDS[kind]()
    model.load_state_dict({k: rounded(v, torch.float32) for k, v in stored.items()}, assign=True)
    return model.eval()
