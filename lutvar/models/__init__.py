# SPDX-License-Identifier: Apache-2.0
"""Trained models that come with lutvar, and models trained by the user.

A model is a folder with a `model.json` (shapes, sampling defaults, hashes of the
files) and the weights it names. The weights are stored as float16; those rounded
values are the model, and computing in float32 starts from them.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig, load_var, load_vqvae

from .classifier import load_classifier
from .judge import Judge

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

__all__ = ["LoadedModel", "ModelError", "ModelInfo", "known_models", "load_model"]

#: Version of model.json.
FORMAT = 1


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
            yield _checked_file(self.folder, name, self.info, stack)


def known_models() -> list[str]:
    """Names of the models that come with lutvar."""
    root = importlib.resources.files(__name__)
    return sorted(e.name for e in root.iterdir() if e.joinpath("model.json").is_file())


def load_model(name: str | Path) -> LoadedModel:
    """Load a model that comes with lutvar, or one from a folder.

    Args:
        name: a name of `known_models`, or the path of a folder written by the training.

    Raises:
        ModelError: unknown name, unreadable model.json, missing or changed file.
    """
    folder: Traversable = importlib.resources.files(__name__).joinpath(str(name))
    if str(name) not in known_models():
        folder = Path(name)
        if not folder.joinpath("model.json").is_file():
            raise ModelError(
                f"unknown model {str(name)!r}: known are {', '.join(known_models())}; or give the "
                "path of a folder that holds a model.json"
            )
    info = _read_info(folder)
    with ExitStack() as stack:
        var_path = _checked_file(folder, "var.safetensors", info, stack)
        vqvae_path = _checked_file(folder, "vqvae.safetensors", info, stack)
        var, vqvae = load_var(var_path, info.var), load_vqvae(vqvae_path, info.vqvae)
    return LoadedModel(var, vqvae, info, folder)


def _read_info(folder: Traversable) -> ModelInfo:
    path = folder.joinpath("model.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["format"] != FORMAT:
            raise ModelError(
                f"{path}: format {raw['format']!r}, this version of lutvar reads {FORMAT}; "
                "train the model again or install a matching lutvar"
            )
        sampling = raw["sampling"]
        return ModelInfo(
            name=raw["name"],
            cfg=float(sampling["cfg"]),
            top_k=int(sampling["top_k"]),
            top_p=float(sampling["top_p"]),
            classes=tuple(raw["classes"]),
            figures=dict(raw["figures"]),
            files=dict(raw["files"]),
            var=VarConfig.from_dict(raw["var"]),
            vqvae=VqvaeConfig.from_dict(raw["vqvae"]),
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a usable model description ({error!r})") from error


def _checked_file(folder: Traversable, file: str, info: ModelInfo, stack: ExitStack) -> Path:
    """A real path of one file, after its content was compared with model.json."""
    source = folder.joinpath(file)
    if not source.is_file():
        raise ModelError(f"{source}: missing; reinstall lutvar or train the model again")
    found = hashlib.sha256(source.read_bytes()).hexdigest()
    expected = info.files.get(file)
    if found != expected:
        raise ModelError(
            f"{source}: SHA-256 is {found}, model.json says {expected}; the file was changed or "
            "damaged, reinstall lutvar or train the model again"
        )
    return stack.enter_context(importlib.resources.as_file(source))
