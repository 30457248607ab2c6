# SPDX-License-Identifier: Apache-2.0
"""Model files: safetensors of this project (plain or compact), and the released .pth files.

A file is read whole and compared with the model's keys and shapes before a model
is made, so nothing is ever half loaded. Files are written beside their target and
renamed, so an interrupted write leaves the old file.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor, nn

from .compact import STEPS, pack, unpack
from .config import ConfigError, VarConfig, VqvaeConfig
from .model import Var, derived_buffers
from .vqvae import Vqvae

#: Ending of compact files.
COMPACT = ".safetensors.xz"
#: How many offending keys an error lists.
_LISTED = 4
_M = TypeVar("_M", bound=nn.Module)
_C = TypeVar("_C", VarConfig, VqvaeConfig)
_METADATA = "lutvar"
_HITS = "quantize.ema_vocab_hit_SV"


class CheckpointError(ValueError):
    """A model file that cannot be used; the text says what was found and what was expected."""


def load_var(path: str | Path, config: VarConfig | None = None) -> Var:
    """Load a transformer in float32 and evaluation mode.

    Args:
        path: a file written by `save_model`, or a released .pth file.
        config: the shape; by default taken from the file (its metadata, or its tensors).

    Raises:
        CheckpointError: unreadable file, or keys or shapes that do not match.
    """
    path = Path(path)
    state, stored = _read(path)
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
                f"{config.depth}; load with the configuration the file was trained with"
            )
    with torch.device("meta"):
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
    state, stored = _read(path)
    _need_kind(path, "vqvae", stored)
    if config is None:
        if not stored:
            raise CheckpointError(
                f"{path}: holds no VQVAE configuration; pass one, for example "
                "VqvaeConfig.official(patch_nums)"
            )
        config = _stored(path, VqvaeConfig, stored["vqvae"])
    hits = (len(config.patch_nums), config.vocab)
    # Usage statistics of the training run: the released tokenizer serves other
    # numbers of scales as well, for which the statistics mean nothing.
    if _HITS not in state or state[_HITS].shape[0] != hits[0]:
        state[_HITS] = torch.zeros(hits)
    with torch.device("meta"):
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
    metadata = {_METADATA: json.dumps({kind: model.config.to_dict()}, sort_keys=True)}
    full = {key: value for key, value in model.state_dict().items() if key not in skip}
    if str(path).endswith(COMPACT):
        try:
            # Convolutions follow each other without a residual stream: finer steps.
            steps = STEPS if isinstance(model, Var) else 2 * STEPS
            write_atomic(path, pack(full, metadata, steps))
        except ValueError as error:
            raise CheckpointError(str(error)) from error
        return
    state: dict[str, Tensor] = {}
    for key, value in full.items():
        stored = value.detach().to("cpu", torch.float16 if half else torch.float32).contiguous()
        if not torch.isfinite(stored).all():
            raise CheckpointError(
                f"{key}: has values that {'float16' if half else 'float32'} cannot hold "
                f"(largest magnitude {value.abs().max().item():g}); "
                + ("save without half" if half else "the training diverged")
            )
        state[key] = stored
    write_atomic(path, safetensors_bytes(state, metadata))


def write_state(path: str | Path, content: dict[str, Any]) -> None:
    """Write what `torch.load` reads with `weights_only`: tensors, numbers, text in containers."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomic(path, buffer.getvalue())


def write_atomic(path: str | Path, data: bytes | Iterable[bytes]) -> None:
    """Write bytes, or pieces of them, to a file: it holds either the old or the new content."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _need_kind(path: Path, kind: str, stored: Mapping[str, object]) -> None:
    if stored and kind not in stored:
        raise CheckpointError(f"{path}: holds a {', '.join(stored)} model, not a {kind} model")


def _stored(path: Path, cls: type[_C], values: dict[str, Any]) -> _C:
    try:
        return cls.from_dict(values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """The tensors of a file, and its configurations by kind ("var" or "vqvae")."""
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.name.endswith(COMPACT):
        try:
            state, metadata = unpack(path.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{path}: {error}; copy or download it again") from error
        return state, _configurations(path, metadata)
    if path.suffix == ".pth":
        return _read_pth(path), {}
    raise CheckpointError(
        f"{path}: unknown ending {path.suffix!r}; use .safetensors, {COMPACT} or .pth"
    )


def _read_safetensors(
    path: Path,
) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path}: not a complete safetensors file ({error}); copy or download it again"
        ) from error
    return state, _configurations(path, metadata)


def _configurations(path: Path, metadata: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    if _METADATA not in metadata:
        return {}
    try:
        return dict(json.loads(metadata[_METADATA]))
    except (json.JSONDecodeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error


def _read_pth(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path}: not a complete weights file ({first_line}); copy or download it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        names = ", ".join(map(str, list(state)[:_LISTED])) if isinstance(state, Mapping) else ""
        raise CheckpointError(
            f"{path}: expected a flat table of tensors, found {type(state).__name__} ({names}); "
            "extract the model's state_dict first"
        )
    return dict(state)


def _fill(path: Path, model: _M, state: dict[str, Tensor]) -> _M:
    """Put a checked state into a model made on the meta device."""
    expected = model.state_dict()
    problems = _differences(expected, state)
    if problems:
        raise CheckpointError(f"{path}: does not fit the model. " + " ".join(problems))
    loaded = {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }
    model.load_state_dict(loaded, strict=True, assign=True)
    return model.eval()


def _differences(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """Sentences on missing, extra and misshaped keys; empty when all is well."""
    missing = [f"{k} {list(v.shape)}" for k, v in expected.items() if k not in found]
    extra = [f"{k} {list(v.shape)}" for k, v in found.items() if k not in expected]
    shared = [k for k in expected if k in found]
    shaped = [
        f"{k}: found {list(found[k].shape)}, expected {list(expected[k].shape)}"
        for k in shared
        if found[k].shape != expected[k].shape
    ]
    typed = [
        f"{k}: found {found[k].dtype}, expected {expected[k].dtype}"
        for k in shared
        if found[k].is_floating_point() != expected[k].is_floating_point()
    ]
    groups = {
        "missing": missing,
        "not expected": extra,
        "wrong shape": shaped,
        "type": typed,
    }
    sentences = []
    for what, entries in groups.items():
        if entries:
            more = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
            sentences.append(f"{len(entries)} {what}: {'; '.join(entries[:_LISTED])}{more}.")
    return sentences


def _infer(path: Path, state: Mapping[str, Tensor]) -> VarConfig:
    """Read the shape of a released transformer file off its tensors."""
    try:
        counts = state["lvl_1L"].flatten().long().bincount().tolist()
        depth = 1 + max(int(k.split(".")[1]) for k in state if k.startswith("blocks."))
        return VarConfig(
            depth=depth,
            width=state["pos_1LC"].shape[2],
            heads=state["blocks.0.attn.scale_mul_1H11"].shape[1],
            patch_nums=tuple(round(n**0.5) for n in counts),
            num_classes=state["class_emb.weight"].shape[0] - 1,
            vocab=state["head.weight"].shape[0],
            z_channels=state["word_embed.weight"].shape[1],
            mlp_ratio=state["blocks.0.ffn.fc1.weight"].shape[0] / state["pos_1LC"].shape[2],
            shared_adaln="shared_ada_lin.1.weight" in state,
        )
    except (KeyError, IndexError, ConfigError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the shape cannot be read off this file ({error}); pass a VarConfig"
        ) from error
