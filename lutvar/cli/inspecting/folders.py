# SPDX-License-Identifier: Apache-2.0
"""Folders: models, samples of an evaluation, unfinished runs of quantize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from .documents import model_json
from .report import FileReport, InspectError, read_json, sha256_of


def inspect_folder(path: Path) -> FileReport:
    """A folder that commands write and read. Raises InspectError for any other."""
    try:
        if (path / "model.json").is_file():
            return _model(path, read_json(path / "model.json"))
        if (path / "run.json").is_file():
            run = read_json(path / "run.json")
            return _parts(path, run) if "recipe" in run else _samples(path, run)
    except (KeyError, TypeError, AttributeError) as error:
        raise InspectError(f"{path}: made by another version ({error!r})") from error
    raise InspectError(
        f"{path}: neither a model, nor samples of lutvar eval, nor an unfinished lutvar quantize; "
        "name a file in it"
    )


def _model(path: Path, data: dict[str, Any]) -> FileReport:
    for name, stated in data["files"].items():
        file = path / name
        if not file.is_file():
            raise InspectError(f"{file}: missing; {path / 'model.json'} names it")
        digest = sha256_of(file)
        if digest != stated:
            raise InspectError(
                f"{file}: SHA-256 is {digest}, model.json says {stated}; the file was changed or "
                "damaged"
            )
    described = model_json(path, data)
    facts = {**described.facts, "files": data["files"], "figures": data["figures"]}
    return FileReport(
        "model: transformer, tokenizer and what belongs to them", described.format,
        "SHA-256 of every file", "--model", facts,
    )  # fmt: skip


def _samples(path: Path, run: dict[str, Any]) -> FileReport:
    samples, chunks = 0, sorted(path.glob("chunk-*.safetensors"))
    for chunk in chunks:
        try:
            with safe_open(chunk, framework="np") as file:
                samples += max(file.get_slice(key).get_shape()[0] for key in file.keys())  # noqa: SIM118
        except (SafetensorError, OSError, IndexError) as error:
            raise InspectError(
                f"{chunk}: damaged ({error}); delete it, `lutvar eval` makes it again"
            ) from error
    return FileReport(
        "samples of `lutvar eval`",
        str(run["format"]),
        "structure of every chunk",
        "lutvar eval, which goes on from them",
        {"run": {k: v for k, v in run.items() if k != "format"}, "chunks": len(chunks),
         "samples": samples},
    )  # fmt: skip


def _parts(path: Path, run: dict[str, Any]) -> FileReport:
    blocks = sorted(path.glob("block_*.safetensors"))
    return FileReport(
        "unfinished `lutvar quantize`",
        read_by="lutvar quantize, which goes on from it",
        facts={
            "recipe": run["recipe"]["name"],
            "model_fingerprint": run["model"],
            "blocks_done": len(blocks),
            "tuning": (path / "tune.pt").exists(),
        },
    )
