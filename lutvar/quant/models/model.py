# SPDX-License-Identifier: Apache-2.0
"""What a loaded model is: weights, description, files that are checked when they are read."""

from __future__ import annotations

import hashlib
import importlib.resources
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig

from .classifier import load_classifier
from .judge import Judge

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable


class ModelError(ValueError):
    """A model that does not exist or whose files are not what model.json says."""


@dataclass(frozen=True)
class ModelInfo:
    """What model.json says.

    Attributes:
        name: the model's name.
        cfg, top_k, top_p: sampling settings for which the figures hold; use them as defaults.
        classes: name of every class, by label.
        figures: what the training run measured.
        files: file name -> SHA-256 in hex.
        var, vqvae: the shapes.
    """

    name: str
    cfg: float
    top_k: int
    top_p: float
    classes: tuple[str, ...]
    figures: dict[str, Any]
    files: dict[str, str]
    var: VarConfig
    vqvae: VqvaeConfig


@dataclass(frozen=True)
class LoadedModel:
    """A transformer and its tokenizer, float32, in evaluation mode."""

    var: Var
    vqvae: Vqvae
    info: ModelInfo
    folder: Traversable

    def classifier(self) -> Judge:
        """The classifier that came with the model; raises ModelError when there is none."""
        if "classifier.safetensors" not in self.info.files:
            raise ModelError(f"model {self.info.name!r} has no classifier")
        with self.file("classifier.safetensors") as path:
            return load_classifier(path)

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Path of one file of the model, compared with model.json; ModelError when changed."""
        with ExitStack() as stack:
            yield checked_file(self.folder, name, self.info, stack)


def checked_file(folder: Traversable, file: str, info: ModelInfo, stack: ExitStack) -> Path:
    """A real path of one file, after its content was compared with model.json."""
    return checked_content(folder, file, info.files, stack)


def checked_content(
    folder: Traversable, file: str, files: Mapping[str, str], stack: ExitStack
) -> Path:
    """`checked_file` for the hashes of model.json, file name -> SHA-256 in hex."""
    source = folder.joinpath(file)
    if not source.is_file():
        raise ModelError(f"{source}: missing; reinstall lutvar or train the model again")
    digest = sha256_of(source)
    expected = files.get(file)
    if digest != expected:
        raise ModelError(
            f"{source}: SHA-256 is {digest}, model.json says {expected}; the file was changed or "
            "damaged, reinstall lutvar or train the model again"
        )
    return stack.enter_context(importlib.resources.as_file(source))


def sha256_of(file: Traversable) -> str:
    """SHA-256 of a file in hex. Large models are gigabytes: not whole in memory."""
    total = hashlib.sha256()
    with file.open("rb") as stream:
        while part := stream.read(1 << 24):
            total.update(part)
    return total.hexdigest()
