# SPDX-License-Identifier: Apache-2.0
"""RAR and PAR models: released files with the tokenizer's beside them, and folders of this project.

The sampling settings are those of the published FID figures where the size is a released one.
"""

from __future__ import annotations

import importlib.resources
import json
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from lutvar.quant.generators import (
    ParConfig,
    RarConfig,
    Sampling,
    Tokenizer,
    TokenizerConfig,
    TokenModel,
    load_tokenizer,
    load_transformer,
)
from lutvar.quant.generators.checkpoint import family_of
from lutvar.quant.generators.config import SAMPLING, released_name
from lutvar.quant.var.checkpoint import COMPACT, CheckpointError

from .model import ModelError, checked_content

if sys.version_info >= (3, 11):
    from importlib.resources.abc import Traversable
else:
    from importlib.abc import Traversable

#: Files of a folder: transformer, tokenizer.
WEIGHTS, TOKENIZER_FILE = f"generator{COMPACT}", "tokenizer.safetensors"
#: Endings of released files; VAR's are .pth.
ENDINGS = (".bin", ".pt")
#: The released tokenizers, and where they are.
TOKENIZERS = {
    "rar": ("maskgit-vqgan-imagenet-f16-256.bin", "https://huggingface.co/fun-research/TiTok"),
    "par": ("vq_ds16_c2i.pt", "https://huggingface.co/FoundationVision/LlamaGen"),
}


@dataclass(frozen=True)
class LoadedGenerator:
    """A transformer and its tokenizer, float32, in evaluation mode.

    Attributes:
        name: of the model.
        model, tokenizer: the two parts.
        sampling: settings for which the published (or the model's own) figures hold.
        classes: name of every class, by label.
    """

    name: str
    model: TokenModel
    tokenizer: Tokenizer
    sampling: Sampling
    classes: tuple[str, ...]


def is_generator(name: str | Path) -> bool:
    """Whether a model's name is that of a RAR or PAR model, as far as name and folder say."""
    if Path(name).suffix in ENDINGS:
        return True
    description = _folder(name).joinpath("model.json")
    try:
        return "generator" in json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def load_generator(name: str | Path) -> LoadedGenerator:
    """Load a released .bin or .pt file with its tokenizer, or a folder.

    Raises:
        ModelError: a file is missing or changed, or model.json is not usable.
        CheckpointError: a file that holds something else.
    """
    if Path(name).suffix in ENDINGS:
        return _released(Path(name))
    folder = _folder(name)
    path = folder.joinpath("model.json")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        model = raw["generator"]
        config = (RarConfig if model["family"] == "rar" else ParConfig).from_dict(model["shape"])
        tokenizer = Tokenizer(TokenizerConfig.from_dict(raw["tokenizer"]))
        sampling = Sampling(**raw["sampling"])
        files, classes = dict(raw["files"]), tuple(raw["classes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: not a usable model description ({error!r})") from error
    with ExitStack() as stack:
        transformer = load_transformer(checked_content(folder, WEIGHTS, files, stack), config)
        tokenizer.load_state_dict(load_file(checked_content(folder, TOKENIZER_FILE, files, stack)))
    tokenizer.requires_grad_(False)
    transformer.sampling = sampling
    return LoadedGenerator(str(raw["name"]), transformer, tokenizer.eval(), sampling, classes)


def _folder(name: str | Path) -> Traversable:
    """A shipped model's folder, else the path."""
    shipped: Traversable = importlib.resources.files(__package__).joinpath(str(name))
    return shipped if shipped.joinpath("model.json").is_file() else Path(name)


def _released(path: Path) -> LoadedGenerator:
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    family = family_of(path)
    if family is None:
        raise CheckpointError(
            f"{path}: holds neither a RAR nor a PAR transformer; VAR's released files end in .pth"
        )
    file, origin = TOKENIZERS[family]
    beside = path.with_name(file)
    if not beside.is_file():
        raise ModelError(
            f"{beside}: missing; a released {family.upper()} checkpoint needs this tokenizer "
            f"beside it, from {origin}"
        )
    model = load_transformer(path)
    kind = TokenizerConfig.official("maskgit" if family == "rar" else "vq16")
    tokenizer = load_tokenizer(beside, kind)
    config = model.config
    if (config.vocab, config.tokens) != (kind.vocab, kind.side**2):
        raise ModelError(
            f"{path}: draws {config.tokens} tokens of {config.vocab}, the tokenizer beside it "
            f"has {kind.side**2} of {kind.vocab}; give a released checkpoint"
        )
    released = released_name(config)
    default = Sampling(4.0, 0.0) if family == "rar" else Sampling(1.5)
    sampling = SAMPLING[released] if released is not None else default
    model.sampling = sampling
    classes = tuple(str(i) for i in range(config.num_classes))
    return LoadedGenerator(path.stem, model, tokenizer, sampling, classes)
