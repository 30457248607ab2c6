# SPDX-License-Identifier: Apache-2.0
"""Trained models that come with lutvar, and models trained by the user.

A model is a folder with a `model.json` (shapes, sampling defaults, hashes of the
files) and the weights it names. The weights are stored as float16, or in fewer bits
(`quant.var.compact`); those rounded values are the model, and computing in float32
starts from them. Released
checkpoints are read as they are, see `official`.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from contextlib import ExitStack
from pathlib import Path

from lutvar.contract.names import check_name
from lutvar.quant.generators.accelerator import refusal
from lutvar.quant.var import VarConfig, VqvaeConfig, load_var, load_vqvae
from lutvar.quant.var.checkpoint import COMPACT

from .generator import is_generator, load_generator
from .model import LoadedModel, ModelError, ModelInfo, checked_file

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

__all__ = ["LoadedModel", "ModelError", "ModelInfo", "known_models", "load_model"]

#: Version of model.json.
FORMAT = 1


def known_models() -> list[str]:
    """Names of the models that come with lutvar."""
    root = importlib.resources.files(__name__)
    return sorted(e.name for e in root.iterdir() if e.joinpath("model.json").is_file())


def load_model(name: str | Path) -> LoadedModel:
    """Load a model that comes with lutvar, or one from a folder.

    Args:
        name: a name of `known_models`, the path of a folder written by the training, or the path
            of a released checkpoint, `.../var_d16.pth`.

    Raises:
        ModelError: unknown name, unreadable model.json, missing or changed file, or a RAR or PAR
            model (`generator.load_generator`), which cannot take a VAR model's place.
    """
    if str(name).endswith(".pth"):
        from .official import load_official

        return load_official(name)
    if is_generator(name):
        raise ModelError(refusal(str(name), load_generator(name).model.config))
    folder: Traversable = importlib.resources.files(__name__).joinpath(str(name))
    if str(name) not in known_models():
        folder = Path(name)
        if not folder.joinpath("model.json").is_file():
            raise ModelError(
                f"unknown model {str(name)!r}: known are {', '.join(known_models())}; or give the "
                "path of a folder that holds a model.json, or of a released .pth file"
            )
    info = _read_info(folder)
    with ExitStack() as stack:
        var_path = checked_file(folder, _weights("var", info), info, stack)
        vqvae_path = checked_file(folder, _weights("vqvae", info), info, stack)
        var, vqvae = load_var(var_path, info.var), load_vqvae(vqvae_path, info.vqvae)
    return LoadedModel(var, vqvae, info, folder)


def _weights(part: str, info: ModelInfo) -> str:
    """Name of the file with the weights of a part, plain or compact."""
    compact = f"{part}{COMPACT}"
    return compact if compact in info.files else f"{part}.safetensors"


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
            name=_name(path, raw["name"]),
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


def _name(path: Traversable, name: object) -> str:
    try:
        return check_name(str(name))
    except ValueError as error:
        raise ModelError(f"{path}: {error}") from error
