# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate --host-model`: images on a device from files alone, without PyTorch.

The driver, the sampler and the feature map are those of `lutvar.host`, the decoder runs on ONNX
Runtime. Nothing here may import PyTorch, which a board's host does not have.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click

from lutvar.text import class_name

from .common import note, progress, refuse_with
from .row import Row


class HostFiles(NamedTuple):
    """What stands for the model; all three are written by `lutvar pack`.

    Attributes:
        image: the device's memory.
        model: embeddings and codebook.
        decoder: for ONNX Runtime.
    """

    image: Path
    model: Path
    decoder: Path


def host_files(
    device: str | None, image: Path | None, model: Path, decoder: Path | None
) -> HostFiles:
    """Check the options that go with --host-model. Raises UsageError."""
    refuse_with(
        "--host-model", model="--model", backend="--backend", recipe="--quantized",
        stagger="--stagger",
    )  # fmt: skip
    if device is None or image is None or decoder is None:
        raise click.UsageError(
            "--host-model goes with --device, --image and --decoder (lutvar pack writes the three "
            "files); lutvar.host.generate in Python stops at the decoder's input"
        )
    if find_spec("PIL") is None:
        raise ImportError("PIL is not installed; run: pip install 'lutvar[board]'")
    return HostFiles(image, model, decoder)


def generate_host(
    files: HostFiles,
    device: str,
    config: str,
    labels: tuple[int, ...],
    seed: int,
    cfg: float | None,
    slots: int | None,
    dump: Path,
) -> Row:
    """Generate one image for each class.

    Args:
        files: what `host_files` returned.
        device: URL.
        config: the accelerator.
        labels: classes; none: every class once.
        seed: of the first image; the next one has the next.
        cfg: guidance; None: the model's.
        slots: images at a time; None: all.
        dump: file for what the device says when it fails.

    Raises:
        BadInput: a file that is none of `lutvar pack`'s, or of another model than the image.
        HostError: what the device raises.
    """
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.host.decoder import OnnxDecoder
    from lutvar.host.errors import BadInput
    from lutvar.host.generate import Generated, HostModel, generate
    from lutvar.host.session import Session
    from lutvar.host.transformer import PassReport
    from lutvar.times import Times

    model = HostModel.load(files.model)
    packed = PackedTransformer.load(files.image, load_accelerator(config))
    if (here := packed.model.get("fingerprint")) != model.fingerprint:
        raise BadInput(
            f"{files.model}: of a model with fingerprint {model.fingerprint[:16] or 'none'}, "
            f"{files.image} of one with {str(here)[:16]}; take both from one run of lutvar pack"
        )
    decode = OnnxDecoder(files.decoder)
    every = range(len(model.classes) - 1)
    names = model.names or tuple(map(str, every))
    classes = labels or tuple(every)
    count = min(slots or len(classes), len(classes))
    reports: list[PassReport] = []
    times = Times()
    made: list[Generated] = []
    with progress("model to the device: MiB") as update:
        session = Session.open(
            device, packed, slots=count, on_pass=reports.append, say=note,
            progress=lambda done: update(done >> 20, len(packed.image) >> 20), dump=dump,
        )  # fmt: skip
    with session, progress(f"{device}: images") as update:
        for first in range(0, len(classes), count):
            part = classes[first : first + count]
            made += generate(
                model, session.transformer, part,
                [seed + first + i for i in range(len(part))],
                model.cfg if cfg is None else cfg, model.top_k, model.top_p, times=times,
            )  # fmt: skip
            update(min(first + count, len(classes)), len(classes))
    with times("decoder"):
        images = [decode(one.latent[None]) for one in made]
    import numpy as np

    return Row(
        np.concatenate(images),
        [[int(t) for scale in one.tokens for t in scale] for one in made],
        classes,
        [class_name(names, label) for label in classes],
        times.seconds,
        reports,
    )
