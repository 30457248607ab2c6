# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate`: one row of images from a model on the host or an accelerator by its URL."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from lutvar.files import prepare_output
from lutvar.text import class_name

from . import token_images
from .common import (
    accelerator_option,
    command,
    json_option,
    model_option,
    note,
    out_option,
    progress,
    recipe_option,
    refuse_with,
    require_simulator,
    seed_option,
)
from .generate_host import generate_host, host_files
from .row import Row, finish

if TYPE_CHECKING:
    from torch import Tensor

    from lutvar.contract.passes import Transformer
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.host.transformer import PassReport
    from lutvar.quant.models import LoadedModel
    from lutvar.quant.runnable import Quantized

    Runs = Quantized | PackedTransformer


@command("generate")
@model_option
@click.option(
    "--backend",
    type=click.Choice(["float", "golden", "sim"]),
    default="golden",
    help="float: unquantized; golden: quantized, code level; sim: the Verilog, simulated.",
)
@click.option(
    "--device",
    metavar="URL",
    help="Instead of --backend: an accelerator behind the driver, such as uio:lutvar on a board, "
    "sim:small-fp4 (the Verilog, simulated) or golden:small-fp4 (without gateware).",
)
@accelerator_option
@recipe_option
@click.option(
    "--image",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --backend sim or --device: the device's memory as `lutvar pack` wrote it for this "
    "model.",
)
@click.option(
    "--decoder",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Decode with ONNX Runtime, from a file of `lutvar pack --decoder`. Default: PyTorch.",
)
@click.option(
    "--host-model",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --device, --image and --decoder: embeddings and codebook, from `lutvar pack "
    "--host-model`. Nothing else of the model is needed, and no PyTorch.",
)
@click.option(
    "--class",
    "labels",
    type=int,
    multiple=True,
    metavar="N",
    help="Class to draw, or -1 for the unconditional one; repeat for several. Default: every "
    "class once.",
)
@seed_option
@click.option("--cfg", type=float, help="Guidance. Default: the model's.")
@click.option("--slots", type=click.IntRange(1), help="Images at a time. Default: all.")
@click.option(
    "--stagger", type=click.IntRange(0), default=0, help="Passes between the starts of two images."
)
@click.option("--zoom", type=click.IntRange(1, 64), default=12, help="Screen pixels per pixel.")
@out_option("PNG file.", "build/generate.png", endings=(".png",))
@json_option
def generate(
    model: str,
    backend: str,
    device: str | None,
    config: str,
    recipe: Path | None,
    image: Path | None,
    decoder: Path | None,
    host_model: Path | None,
    labels: tuple[int, ...],
    seed: int,
    cfg: float | None,
    slots: int | None,
    stagger: int,
    zoom: int,
    out: Path,
    as_json: bool,
) -> None:
    """Generate one image for each class given, next to each other in one PNG.

    Image i has seed SEED + i. With --backend sim or --device a table tells what each pass took:
    host, transfer, device. Another one says where the time of an image went, and images a second
    from end to end.

    A RAR or PAR model, as released (rar_b.bin, PAR-XL-4x.pt, with its tokenizer's file beside it),
    is drawn in float, or with the layers of --quantized.
    """
    if device is not None:
        refuse_with("--device", backend="--backend")
        from lutvar.host.open import parse

        backend = device
        if parse(device).scheme == "sim":  # first: mistakes must not wait for torch
            require_simulator()
    what = "backend" if device is None else "device"
    if host_model is not None:
        files = host_files(device, image, host_model, decoder)
        prepare_output(out)
        row = generate_host(
            files, backend, config, labels, seed, cfg, slots, out.parent / "device-dump.json"
        )
        finish(row, out, backend=backend, what=what, seed=seed, zoom=zoom, as_json=as_json)
        return
    if image is not None and ((device is None and backend != "sim") or recipe is not None):
        raise click.UsageError("--image goes with --backend sim or --device, without --quantized")
    if backend == "float":
        refuse_with("--backend float (unquantized)", recipe="--quantized", config="--config")
    elif backend == "sim":
        require_simulator()
    prepare_output(out)
    if token_images.is_token_model(model):
        token_images.generate(model, recipe, labels, seed, cfg, slots, zoom, out, as_json, backend)
        return
    from lutvar.quant.var.passes import generate_passes

    decode = None if decoder is None else _decoder(decoder)
    loaded, runs = _what_runs(model, config, recipe, image)
    classes = labels or tuple(range(len(loaded.info.classes)))
    count = slots or len(classes)
    reports: list[PassReport] = []
    with (
        _backend(loaded, runs, backend, device, count, out.parent, reports) as transformer,
        progress(f"{backend}: scales") as update,
    ):
        result = generate_passes(
            loaded.var,
            loaded.vqvae,
            transformer,
            classes,
            [seed + i for i in range(len(classes))],
            loaded.info.cfg if cfg is None else cfg,
            loaded.info.top_k,
            loaded.info.top_p,
            slots=count,
            stagger=stagger,
            progress=update,
            decode=decode,
        )
    row = Row(
        result.images_BCHW.numpy(),
        [[int(t) for scale in result.tokens for t in scale[i]] for i in range(len(classes))],
        classes,
        [class_name(loaded.info.classes, label) for label in classes],
        result.seconds,
        reports,
    )
    finish(row, out, backend=backend, what=what, seed=seed, zoom=zoom, as_json=as_json)


def _decoder(path: Path) -> Callable[[Tensor], Tensor]:
    """ONNX Runtime's decoder."""
    import torch

    from lutvar.host.decoder import OnnxDecoder

    decoder = OnnxDecoder(path)
    return lambda f_hat_BZHW: torch.from_numpy(decoder(f_hat_BZHW.numpy()))


def _what_runs(
    model: str, config: str, recipe: Path | None, image: Path | None
) -> tuple[LoadedModel, Runs]:
    """The float model, which embeds and decodes, and what the backend computes with."""
    if image is None:
        from lutvar.quant.runnable import quantize

        quantized = quantize(model, config, recipe)
        return quantized.loaded, quantized
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.quant.methods.recipes.files import fingerprint
    from lutvar.quant.models import load_model

    packed = PackedTransformer.load(image, load_accelerator(config))
    loaded = load_model(model)
    if packed.model.get("fingerprint") != fingerprint(loaded.var):
        raise ValueError(
            f"{image}: packed of model {packed.model.get('model', 'without a name')!r}, not of "
            f"{model}; give that one with --model"
        )
    return loaded, packed


@contextmanager
def _backend(
    loaded: LoadedModel,
    runs: Runs,
    backend: str,
    device: str | None,
    slots: int,
    folder: Path,
    reports: list[PassReport],
) -> Iterator[Transformer]:
    """What computes the logits."""
    if device is not None:
        from lutvar.host.session import Session as DeviceSession

        packed = _packed(runs)
        with progress("model to the device: MiB") as update:
            opened = DeviceSession.open(
                device, packed, slots=slots, on_pass=reports.append, say=note,
                progress=lambda done: update(done >> 20, len(packed.image) >> 20),
                dump=folder / "device-dump.json",
            )  # fmt: skip
        with opened:
            yield opened.transformer
    elif backend == "float":
        from lutvar.quant.var.passes import FloatTransformer

        yield FloatTransformer(loaded.var)
    elif backend == "golden":
        from lutvar.quant.golden.transformer import GoldenTransformer

        yield GoldenTransformer(cast("Quantized", runs).transformer)
    else:
        from lutvar.host.compile.packed import PackedTransformer
        from lutvar.sim.run.session import Session, Stages

        verilog = folder / "verilog"
        accelerator = runs.layout.config if isinstance(runs, PackedTransformer) else runs.config
        note(f"building the simulation of {accelerator.name} (kept for the next time)")
        with Session(
            runs, verilog, slots=slots, on_pass=reports.append, stages=Stages(note)
        ) as session:
            yield session.transformer


def _packed(runs: Runs) -> PackedTransformer:
    """What lies in the device's memory."""
    from lutvar.host.compile.pack import pack_transformer
    from lutvar.host.compile.packed import PackedTransformer

    if isinstance(runs, PackedTransformer):
        return runs
    return pack_transformer(runs.transformer, runs.config)
