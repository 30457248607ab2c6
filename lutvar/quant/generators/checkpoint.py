# SPDX-License-Identifier: Apache-2.0
"""Model files of RAR, PAR and their tokenizers: released .bin and .pt files, and safetensors.

As with VAR a file is compared with the model's names and shapes, all of them, before a model is
filled, and files of `torch.save` are read without running code.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lutvar.contract.errors import ConfigError
from lutvar.files import json_text, write_file
from lutvar.quant.var.compact import pack
from lutvar.quant.var.state_files import (
    COMPACT,
    METADATA,
    PICKLED,
    CheckpointError,
    Kind,
    differences,
    kind_of,
    read_state,
)
from lutvar.quant.var.tensors import tensor_bytes
from lutvar.quant.var.unfilled import unfilled

from . import names
from .config import ParConfig, RarConfig, TokenizerConfig
from .model import TokenModel
from .par import Par
from .rar import Rar
from .tokenizers import Tokenizer

_M = TypeVar("_M", TokenModel, Tokenizer)
#: Heads of the released PAR and LlamaGen transformers by width: no tensor tells them.
_PAR_HEADS = {768: 12, 1024: 16, 1280: 20, 1536: 24, 2048: 32, 2560: 40, 3200: 32}
#: Statistics of the tokenizer's training, which the released file keeps.
_USAGE = "quantize.codebook_used"
_FAMILIES: tuple[Kind, ...] = ("rar", "par")


def family_of(path: str | Path) -> Kind | None:
    """ "rar" or "par" for a file of `torch.save` that holds such a transformer, else None.

    Raises:
        CheckpointError: damaged file, or one with other objects than tensors.
    """
    path = Path(path)
    return kind_of(path, _FAMILIES) if path.suffix in PICKLED and path.is_file() else None


def load_transformer(path: str | Path, config: RarConfig | ParConfig | None = None) -> TokenModel:
    """Load a RAR or PAR transformer in float32 and evaluation mode.

    Args:
        path: a released .bin or .pt file, or what `save_transformer` wrote.
        config: the shape; by default taken from the file (its metadata, or its tensors).

    Raises:
        CheckpointError: unreadable file, or names or shapes that do not match.
    """
    path = Path(path)
    kind = family_of(path) or ("par" if isinstance(config, ParConfig) else "rar")
    state, stored = read_state(path, kind)
    if stored:
        kind = next((k for k in _FAMILIES if k in stored), kind)
        if kind not in stored:
            raise CheckpointError(
                f"{path}: holds a {', '.join(stored)} model, not a RAR or PAR transformer"
            )
        config = config or _stored(path, kind, stored[kind])
    elif config is None:
        config = _rar_config(path, state) if kind == "rar" else _par_config(path, state)
    with unfilled():
        model: TokenModel = Par(config) if isinstance(config, ParConfig) else Rar(config)
    renames = () if stored else (names.PAR if isinstance(config, ParConfig) else names.RAR)
    return _fill(path, model, state, renames)


def load_tokenizer(path: str | Path, config: TokenizerConfig) -> Tokenizer:
    """Load a tokenizer in float32 and evaluation mode.

    Args:
        path: the released file of the tokenizer that `config` describes.
        config: the shape (`TokenizerConfig.official`).

    Raises:
        CheckpointError: unreadable file, or names or shapes that do not match.
    """
    path = Path(path)
    kind: Kind = "maskgit" if config.kind == "maskgit" else "vq16"
    state, _ = read_state(path, kind)
    state.pop(_USAGE, None)
    with unfilled():
        model = Tokenizer(config)
    renames = names.MASKGIT if kind == "maskgit" else names.vq16(len(config.ch_mult))
    return _fill(path, model, state, renames)


def save_transformer(path: str | Path, model: TokenModel, steps: float | None = None) -> None:
    """Write weights and configuration to a .safetensors or .safetensors.xz file, atomically.

    Args:
        path: target; its folder must exist. The ending .safetensors.xz makes a compact file, which
            rounds the weights (`var.compact`).
        model: what to write.
        steps: of a compact file, as of `compact.pack`; default its own.

    Raises:
        CheckpointError: a weight that is not finite.
    """
    state = {key: value.detach() for key, value in model.state_dict().items()}
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"{key}: has values that are not finite; the training diverged")
    kind = "par" if isinstance(model, Par) else "rar"
    metadata = {METADATA: json_text({kind: model.config.to_dict()}, sort_keys=True)}
    if str(path).endswith(COMPACT):
        content = pack(state, metadata) if steps is None else pack(state, metadata, steps)
    else:
        content = tensor_bytes(state, metadata, torch.float32)
    write_file(Path(path), content)


def _stored(path: Path, kind: Kind, values: Mapping[str, Any]) -> RarConfig | ParConfig:
    try:
        return (RarConfig if kind == "rar" else ParConfig).from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error


def _fill(path: Path, model: _M, state: Mapping[str, Tensor], renames: names.Renames) -> _M:
    """Put a state under released names into a model made on the meta device."""
    expected = names.released_shapes(model.state_dict(), renames)
    problems = differences(expected, {k: list(v.shape) for k, v in state.items()})
    if problems:
        raise CheckpointError(f"{path}: does not fit the model. " + " ".join(problems))
    loaded = names.from_released(list(model.state_dict()), state, renames)
    model.load_state_dict({k: v.float() for k, v in loaded.items()}, strict=True, assign=True)
    return model.eval()


def _rar_config(path: Path, state: Mapping[str, Tensor]) -> RarConfig:
    """Read the shape of a released RAR transformer off its tensors."""
    try:
        vocab, width = state["lm_head.weight"].shape
        tokens = state["timesteps_embeddings"].shape[1] - 100
        return RarConfig(
            width=width,
            depth=_depth(state, "blocks."),
            heads=width // state["blocks.0.attn.q_norm.weight"].shape[0],
            hidden=state["blocks.0.mlp.fc1.weight"].shape[0],
            vocab=vocab,
            num_classes=state["embeddings.weight"].shape[0] - vocab - 2,
            tokens=tokens,
        )
    except (LookupError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{path}: is not a RAR transformer as released: {error}") from error


def _par_config(path: Path, state: Mapping[str, Tensor]) -> ParConfig:
    """Read the shape of a released PAR transformer off its tensors; tokens are those of 384 px."""
    try:
        vocab, width = state["tok_embeddings.weight"].shape
        if width not in _PAR_HEADS:
            raise ValueError(f"width {width} is none of {', '.join(map(str, _PAR_HEADS))}")
        return ParConfig(
            width=width,
            depth=_depth(state, "layers."),
            heads=_PAR_HEADS[width],
            hidden=state["layers.0.feed_forward.w1.weight"].shape[0],
            vocab=vocab,
            num_classes=state["cls_embedding.embedding_table.weight"].shape[0] - 1,
            group=state["spe_tok_embeddings.special_embeddings.weight"].shape[0] + 1,
        )
    except (LookupError, ValueError) as error:
        raise CheckpointError(f"{path}: is not a PAR transformer as released: {error}") from error


def _depth(state: Mapping[str, Tensor], prefix: str) -> int:
    return 1 + max(int(k.split(".")[1]) for k in state if k.startswith(prefix))
