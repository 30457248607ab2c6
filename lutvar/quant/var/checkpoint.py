# SPDX-License-Identifier: Apache-2.0
"""Model files: safetensors of this project (plain or compact), and the released .pth files.

A file is read whole and compared with the model's keys and shapes before a model
is made, so nothing is ever partly loaded. Files are written beside their target and
renamed, so an interrupted write leaves the old file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.files import json_text, write_file

from .compact import STEPS, pack
from .config import ConfigError, VarConfig, VqvaeConfig
from .model import Var, derived_buffers
from .state_files import COMPACT, METADATA, CheckpointError, differences, read_state, sentence
from .tensors import rounded, tensor_bytes
from .unfilled import unfilled
from .vqvae import Vqvae

__all__ = ["COMPACT", "CheckpointError", "load_var", "load_vqvae", "save_model"]

_M = TypeVar("_M", bound=nn.Module)
_C = TypeVar("_C", VarConfig, VqvaeConfig)
_HITS = "quantize.ema_vocab_hit_SV"


def load_var(path: str | Path, config: VarConfig | None = None) -> Var:
    """Load a transformer in float32 and evaluation mode.

    Args:
        path: a file written by `save_model`, or a released .pth file.
        config: the shape; by default taken from the file (its metadata, or its tensors).

    Raises:
        CheckpointError: unreadable file, or keys or shapes that do not match.
    """
    path = Path(path)
    state, stored = read_state(path, "var")
    _need_kind(path, "var", stored)
    if config is None:
        config = _stored(path, VarConfig, stored["var"]) if stored else _infer(path, state)
    derived = derived_buffers(config)
    for key, value in derived.items():
        if key not in state:
            state[key] = value
        elif state[key].shape == value.shape and not torch.equal(state[key].to(value), value):
            raise CheckpointError(
                f"{path}: {key} does not fit patch_nums = {config.patch_nums} and depth = "
                f"{config.depth}; the file is of another configuration, correct model.json"
            )
    with unfilled():
        model = Var(config)
    return _fill(path, model, state)


def load_vqvae(path: str | Path, config: VqvaeConfig | None = None) -> Vqvae:
    """Load a tokenizer in float32 and evaluation mode.

    Args:
        path: a .safetensors file written by `save_model`, or the released .pth file.
        config: the shape; needed for a .pth file (see `VqvaeConfig.official`).

    Raises:
        CheckpointError: unreadable file, or keys or shapes that do not match.
    """
    path = Path(path)
    state, stored = read_state(path, "vqvae")
    _need_kind(path, "vqvae", stored)
    if config is None:
        if not stored:
            raise CheckpointError(
                f"{path}: holds no VQVAE configuration; a released tokenizer is read with the "
                "transformer beside it (give that one's file), others as a folder with model.json"
            )
        config = _stored(path, VqvaeConfig, stored["vqvae"])
    hits = (len(config.patch_nums), config.vocab)
    # Usage statistics of the training run: the released tokenizer serves other
    # numbers of scales as well, for which the statistics mean nothing.
    if _HITS not in state or state[_HITS].shape[0] != hits[0]:
        state[_HITS] = torch.zeros(hits, dtype=torch.float32)
    with unfilled():
        model = Vqvae(config)
    return _fill(path, model, state)


def save_model(path: str | Path, model: Var | Vqvae, half: bool = False) -> None:
    """Write weights and configuration to a .safetensors or .safetensors.xz file, atomically.

    Entries that follow from the configuration are left out.

    Args:
        path: target; its folder must exist. The ending .safetensors.xz makes a compact file, which
            rounds the weights (`compact`).
        model: what to write.
        half: store float16 (not in compact files). Weights that float16 cannot hold (overflow,
            NaN) are an error.

    Raises:
        CheckpointError: a weight that is not finite or too large for float16.
    """
    kind = "var" if isinstance(model, Var) else "vqvae"
    skip = set(derived_buffers(model.config)) if isinstance(model, Var) else {_HITS}
    # One entry only: safetensors writes several in random order, and equal models should give
    # equal files.
    metadata = {METADATA: json_text({kind: model.config.to_dict()}, sort_keys=True)}
    full = {key: value for key, value in model.state_dict().items() if key not in skip}
    if str(path).endswith(COMPACT):
        try:
            # Convolutions follow each other without a residual stream: finer steps.
            steps = STEPS if isinstance(model, Var) else 2 * STEPS
            content = pack(full, metadata, steps)
        except ValueError as error:
            raise CheckpointError(str(error)) from error
    else:
        dtype = torch.float16 if half else torch.float32
        for key, value in full.items():
            if not torch.isfinite(rounded(value.detach(), dtype)).all():
                raise CheckpointError(
                    f"{key}: has values that {'float16' if half else 'float32'} cannot hold "
                    f"(largest magnitude {value.abs().max().item():g}); the training diverged"
                    + (", or save without half" if half else "")
                )
        content = tensor_bytes(full, metadata, dtype)
    write_file(path, content)


def _need_kind(path: Path, kind: str, stored: Mapping[str, object]) -> None:
    if stored and kind not in stored:
        raise CheckpointError(f"{path}: holds a {', '.join(stored)} model, not a {kind} model")


def _stored(path: Path, cls: type[_C], values: dict[str, Any]) -> _C:
    try:
        return cls.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error


def _fill(path: Path, model: _M, state: dict[str, Tensor]) -> _M:
    """Put a checked state into a model made on the meta device."""
    expected = model.state_dict()
    problems = _differences(expected, state)
    if problems:
        raise CheckpointError(f"{path}: does not fit the model. " + " ".join(problems))
    loaded = {key: rounded(value, torch.float32) for key, value in state.items()}
    model.load_state_dict(loaded, strict=True, assign=True)
    return model.eval()


def _differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> list[str]:
    """Sentences on missing, extra and misshapen keys; empty when all match."""
    shapes = [{k: list(v.shape) for k, v in state.items()} for state in (expected, actual)]
    typed = [
        f"{k}: found {actual[k].dtype}, expected {v.dtype}"
        for k, v in expected.items()
        if k in actual and actual[k].is_floating_point() != v.is_floating_point()
    ]
    return differences(*shapes) + ([sentence("type", typed)] if typed else [])


def _infer(path: Path, state: Mapping[str, Tensor]) -> VarConfig:
    """Read the shape of a released transformer file off its tensors."""
    try:
        counts = state["lvl_1L"].flatten().long().bincount().tolist()
        depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
        width = state["pos_1LC"].shape[2]
        # Without unit-length q and k no tensor tells the heads; released models have 64 columns.
        scales = state.get("blocks.0.attn.scale_mul_1H11")
        return VarConfig(
            depth=depth,
            width=width,
            heads=width // HEAD_DIM if scales is None else scales.shape[1],
            patch_nums=tuple(round(n**0.5) for n in counts),
            num_classes=state["class_emb.weight"].shape[0] - 1,
            vocab=state["head.weight"].shape[0],
            z_channels=state["word_embed.weight"].shape[1],
            mlp_ratio=state["blocks.0.ffn.fc1.weight"].shape[0] / width,
            shared_adaln="shared_ada_lin.1.weight" in state,
            attn_l2_norm=scales is not None,
        )
    except (LookupError, RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: is not a VAR transformer as released: {_reason(error)}; a model that lutvar "
            "trained is given as its folder"
        ) from error


def _reason(error: Exception) -> str:
    return f"it has no {error.args[0]}" if isinstance(error, KeyError) else str(error)
