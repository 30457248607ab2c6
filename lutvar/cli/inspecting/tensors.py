# SPDX-License-Identifier: Apache-2.0
"""Files of tensors: quantized models, images of memory, weights, statistics, samples."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from . import devices
from .report import FileReport, InspectError, sha256_of, shape_text

Shapes = Mapping[str, list[int]]


def inspect_tensors(path: Path) -> FileReport:
    """A safetensors file. Raises InspectError, or what the reader of its kind raises."""
    try:
        with safe_open(path, framework="np") as file:
            metadata = dict(file.metadata() or {})
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise InspectError(
            f"{path}: not a complete safetensors file ({error}); it was cut or altered"
        ) from error
    return _of(path, metadata, shapes)


def _of(path: Path, metadata: Mapping[str, str], shapes: Shapes) -> FileReport:
    if "lutvar-image-1" in metadata:
        return _image(path)
    if "lutvar-host-1" in metadata:
        return _host_model(path)
    if metadata.get("format") == "lutvar-selftest-1":
        return devices.references(path)
    try:
        header = json.loads(metadata.get("lutvar", "{}"))
    except ValueError as error:
        raise InspectError(f"{path}: its metadata was altered ({error})") from error
    if not isinstance(header, dict):
        raise InspectError(f"{path}: its metadata was altered (no table)")
    readers: dict[str, Callable[[], FileReport]] = {
        "format": lambda: _quantized(path),
        "var": lambda: _weights(path, "transformer", header["var"], shapes),
        "vqvae": lambda: _weights(path, "tokenizer", header["vqvae"], shapes),
        "rar": lambda: _weights(path, "RAR transformer", header["rar"], shapes),
        "par": lambda: _weights(path, "PAR transformer", header["par"], shapes),
        "tokenizer": lambda: _weights(path, "tokenizer", header["tokenizer"], shapes),
        "classifier_sha256": lambda: _reference(path, header, shapes),
        "classifier": lambda: _classifier(path, header["classifier"], shapes),
    }
    for key, reader in readers.items():
        if key in header:
            try:
                return reader()
            except (KeyError, TypeError, AttributeError) as error:
                raise InspectError(f"{path}: its metadata was altered ({error!r})") from error
    if {"conv1.weight", "conv2.weight", "hidden.weight"} <= set(shapes):
        return _classifier(path, "digits", shapes)
    if set(metadata) == {"notes", "cfg"}:
        return FileReport(
            "calibration samples of an unfinished `lutvar quantize`",
            facts={"tensors": dict(shapes), "notes": json.loads(metadata["notes"])},
        )
    if path.name.startswith("chunk-"):
        rows = {shape[0] for shape in shapes.values() if shape}
        return FileReport(
            "chunk of samples of `lutvar eval`",
            read_by="lutvar eval, as part of its folder",
            facts={"samples": max(rows, default=0), "tensors": dict(shapes)},
        )
    names = ", ".join(list(shapes)[:3]) or "no tensors"
    raise InspectError(f"{path}: a safetensors file that lutvar did not write ({names}, ...)")


def _quantized(path: Path) -> FileReport:
    from lutvar.quant.methods.recipes.files import FORMAT, read

    content = read(path)
    grid = content.on_grid()
    coverage = {k: v for k, v in content.recipe.coverage().items() if v != "float"}
    return FileReport(
        "quantized model of `lutvar quantize`",
        FORMAT,
        "SHA-256 of recipe, layers and tensors",
        "lutvar demo, generate, eval and pack",
        {
            "recipe": content.recipe.name,
            "title": content.recipe.title,
            "source": content.recipe.source,
            "model_fingerprint": content.fingerprint,
            "linears": coverage,
            "layers": len(content.layers),
            "layers_as_integers": sum(grid.values()),
            "steps": [str(step["step"]) for step in content.recipe.steps],
            "sha256": content.sha256,
        },
    )


def _image(path: Path) -> FileReport:
    from lutvar.host.compile.packed import FORMAT, read_image

    meta, image = read_image(path)
    null = meta["null_label"]
    return FileReport(
        "packed model of `lutvar pack`: the accelerator's memory region MODEL",
        FORMAT,
        "SHA-256 of sizes and image",
        "lutvar generate --image, lutvar.host.compile.packed",
        {
            "shape": shape_text(meta["shape"]),
            "accelerator_hash": meta["accelerator"],
            "classes": [label for label in meta["labels"] if label != null],
            "null_class": null,
            "decoder": meta["decoder"]["form"] if "decoder" in meta else "none",
            "image_bytes": int(image.nbytes),
            "made_from": meta["model"],
            "model_hash": meta["sha256"][:16],
            "sha256": meta["sha256"],
        },
    )


def _host_model(path: Path) -> FileReport:
    from lutvar.host.host_model import FORMAT, HostModel

    model = HostModel.load(path)
    return FileReport(
        "host model of `lutvar pack --host-model`: embeddings and codebook",
        FORMAT,
        "every value is finite",
        "lutvar generate --host-model",
        {
            "model_fingerprint": model.fingerprint,
            "classes": len(model.classes) - 1,
            "vocabulary": len(model.codebook),
            "scales": list(model.patch_nums),
            "sampling": {"cfg": model.cfg, "top_k": model.top_k, "top_p": model.top_p},
            "sha256": sha256_of(path),
        },
    )


def _weights(path: Path, what: str, config: Mapping[str, Any], shapes: Shapes) -> FileReport:
    facts: dict[str, Any] = {}
    if what.endswith("transformer"):
        facts["shape"] = shape_text(config)
        facts["classes"] = config["num_classes"]
    else:
        facts["vocabulary"] = config["vocab"]
        if "patch_nums" in config:
            facts["scales"] = list(config["patch_nums"])
        else:
            facts["tokens"] = config["side"] ** 2
    facts["tensors"] = len(shapes)
    facts["numbers"] = sum(math.prod(shape) for shape in shapes.values())
    facts["sha256"] = sha256_of(path)
    what = f"VAR {what}" if "patch_nums" in config else what
    return FileReport(f"weights of a {what}", read_by="--model, as part of its folder", facts=facts)


def _reference(path: Path, header: Mapping[str, Any], shapes: Shapes) -> FileReport:
    return FileReport(
        "reference statistics of real images",
        read_by="lutvar eval, as part of a model folder",
        facts={
            "classifier_sha256": header["classifier_sha256"],
            "images": header["counts"],
            "features": shapes["test.mean"][0],
            "neighbours": shapes["neighbours"][0],
            "real": header["real"],
            "sha256": sha256_of(path),
        },
    )


def _classifier(path: Path, kind: str, shapes: Shapes) -> FileReport:
    return FileReport(
        "classifier of generated images",
        read_by="lutvar quality and eval, as part of a model folder",
        facts={
            "network": kind,
            "numbers": sum(math.prod(shape) for shape in shapes.values()),
            "sha256": sha256_of(path),
        },
    )


def inspect_compact(path: Path) -> FileReport:
    """A .safetensors.xz file. All of it is unpacked, a piece at a time, which checks its sums."""
    try:
        with lzma.open(path) as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, 1 << 27)))
            while file.read(1 << 20):
                pass
        metadata = dict(header.pop("__metadata__", {}))
        shapes = {key: list(item["shape"]) for key, item in header.items()}
    except (lzma.LZMAError, EOFError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InspectError(f"{path}: not a complete compact file ({error})") from error
    report = _of(path, metadata, shapes)
    return FileReport(
        f"{report.kind}, compact (int8 rows in xz)", report.format, "sums of xz", report.read_by,
        report.facts,
    )  # fmt: skip
