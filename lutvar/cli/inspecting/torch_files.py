# SPDX-License-Identifier: Apache-2.0
"""Files of torch: states of training and tuning, released checkpoints."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .report import FileReport, InspectError, sha256_of, shape_text


def inspect_torch(path: Path) -> FileReport:
    """A file of `torch.save`; nothing in it is executed. Raises InspectError."""
    import torch

    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except (RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise InspectError(
            f"{path}: a zip file that torch does not read as tensors; it is something else, or "
            "damaged"
        ) from error
    if isinstance(content, Mapping):
        try:
            if {"fingerprint", "run", "stage"} <= set(content):
                return _training(content)
            if {"steps", "variables", "optimizer"} <= set(content):
                return _tuning(content)
        except (KeyError, TypeError, AttributeError) as error:
            raise InspectError(f"{path}: a state of another version ({error!r})") from error
    return _checkpoint(path)


def _training(content: Mapping[str, Any]) -> FileReport:
    run = content["run"]
    return FileReport(
        "state of an unfinished `lutvar train`",
        read_by="lutvar train, which goes on from it",
        facts={
            "settings": content["fingerprint"],
            "steps_done": run["done"],
            "seconds": run["seconds"],
            "records": len(run["history"]),
        },
    )


def _tuning(content: Mapping[str, Any]) -> FileReport:
    variables = content["variables"]
    return FileReport(
        "state of unfinished tuning of `lutvar quantize`",
        read_by="lutvar quantize, which goes on from it",
        facts={
            "steps_done": content["steps"],
            "variables": len(variables),
            "numbers": sum(v.numel() for v in variables),
        },
    )


def _checkpoint(path: Path) -> FileReport:
    """A checkpoint that lutvar reads; it writes none."""
    from lutvar.quant.var.checkpoint import CheckpointError, load_var

    try:
        config = load_var(path).config
    except (CheckpointError, ValueError) as error:
        raise InspectError(f"{path}: a file of torch, but no VAR transformer: {error}") from error
    return FileReport(
        "checkpoint of a VAR transformer",
        checked="keys and shapes",
        read_by="--model, with the tokenizer beside it",
        facts={
            "shape": shape_text(config.to_dict()),
            "classes": config.num_classes,
            "sha256": sha256_of(path),
        },
    )
