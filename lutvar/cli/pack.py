# SPDX-License-Identifier: Apache-2.0
"""`lutvar pack`: the memory image of a quantized model, for a host that has no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lutvar.files import prepare_output

from .common import (
    OutputFile,
    accelerator_option,
    command,
    emit,
    json_option,
    model_option,
    note,
    out_option,
)

if TYPE_CHECKING:
    from lutvar.contract.accelerator import AcceleratorConfig
    from lutvar.quant.golden.decoder import QuantizedDecoder
    from lutvar.quant.var import Vqvae


@command("pack")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@model_option
@accelerator_option
@click.option(
    "--classes",
    metavar="LIST",
    help="Classes to hold, such as 0-9,207; the class of unguided halves comes along. "
    "Default: all of the model's.",
)
@click.option(
    "--host-model",
    type=OutputFile(".host"),
    metavar="FILE",
    help="Write embeddings and codebook too, for a host that generates without torch "
    "(`lutvar.host.generate`).",
)
@click.option(
    "--decoder",
    type=OutputFile(".onnx"),
    metavar="FILE",
    help="Write the image decoder too, for ONNX Runtime (`lutvar.host.decoder`).",
)
@click.option(
    "--device-decoder/--no-device-decoder",
    "on_device",
    default=None,
    help="Pack the image decoder too, which then runs on the device. Default: where the "
    "accelerator and the tokenizer's sizes allow it.",
)
@out_option("Image to write.", endings=(".img",))
@json_option
def pack(
    file: Path,
    model: str,
    config: str,
    classes: str | None,
    host_model: Path | None,
    decoder: Path | None,
    on_device: bool | None,
    out: Path,
    as_json: bool,
) -> None:
    """Pack FILE, which `lutvar quantize` wrote, into the image that lies in the device's memory.

    The image belongs to one accelerator. A host reads it with
    `lutvar.host.compile.packed.PackedTransformer.load`, which maps the file and needs neither torch
    nor the model.
    """
    from lutvar.contract.accelerator import load_accelerator

    accelerator = load_accelerator(config)  # first: mistakes must not wait for torch
    labels = None if classes is None else parse_classes(classes)
    if out.exists() and not out.is_file():
        raise click.UsageError(f"{out}: is no regular file; hosts map an image, name a file")
    prepare_output(out)
    for more in (host_model, decoder):
        if more is not None:
            prepare_output(more)
    from lutvar.host.compile.pack import pack_transformer
    from lutvar.host.compile.packed import scratch
    from lutvar.quant.runnable import quantize

    quantized = quantize(model, accelerator, file)
    coded = _device_decoder(quantized.loaded.vqvae, accelerator, on_device)
    if host_model is not None:
        from lutvar.sim.run.host_model import host_model as of_model

        loaded = quantized.loaded
        of_model(loaded.var, loaded.vqvae, loaded.info).save(host_model)
    if decoder is not None:
        from lutvar.sim.run.decoder_file import write_decoder

        write_decoder(quantized.loaded.vqvae, decoder)
    # The image waits beside its target, where there must be space for it anyway.
    with scratch(out.resolve().parent) as allocate:
        packed = pack_transformer(
            quantized.transformer, accelerator, labels,
            quantized.origin | {"accelerator": accelerator.name}, allocate, coded,
        )  # fmt: skip
        digest = packed.save(out)
        data = {
            "file": str(out),
            "sha256": digest,
            "bytes": len(packed.image),
            "decoder": None if packed.decoder is None else packed.decoder.layout.form.name,
            "accelerator": accelerator.name,
            "classes": [label for label in packed.layout.labels if label != packed.null_label],
            "model": packed.model,
        }
    what = f"{len(packed.layout.labels) - 1} classes"
    what += "" if coded is None else f" and the decoder, {coded.form.name}"
    emit(
        as_json,
        data,
        f"{out}: {data['bytes']:,} bytes for {accelerator.name}, {what}, SHA-256 {digest}",
    )


def _device_decoder(
    vqvae: Vqvae, accelerator: AcceleratorConfig, wanted: bool | None
) -> QuantizedDecoder | None:
    """The decoder to pack; None, with a line on standard error, for one that does not fit."""
    from lutvar.contract.errors import ConfigError
    from lutvar.quant.golden.decoder import decoder_for

    if wanted is False:
        return None
    try:
        return decoder_for(vqvae, accelerator)
    except ConfigError as error:
        if wanted:
            raise
        note(f"packed without the image decoder: {error}")
        return None


def parse_classes(text: str) -> list[int]:
    """Numbers and ranges, "0-9,207"; UsageError for anything else."""
    labels: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise click.UsageError(
                f"--classes {text}: {part.strip()!r} is neither a number nor a range such as 0-9"
            )
        low, high = int(first), int(last or first)
        if not low <= high < 1 << 20:
            raise click.UsageError(f"--classes {text}: {part.strip()} is no range of classes")
        labels.update(range(low, high + 1))
    return sorted(labels)
