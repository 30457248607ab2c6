# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate --host-model`: images on a device from files alone, without PyTorch.

The driver, the sampler and the feature map are those of `lutvar.host`, the decoder runs on the
device or on ONNX Runtime. Nothing here may import PyTorch, which a board's host does not have.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import click

from lutvar.contract.labels import Label, resolve_classes
from lutvar.text import class_name

from .backends import DEVICE_DECODER, GOLDEN_DECODER, HOST_DECODER, Backend
from .common import note, progress, refuse_with
from .row import Row
from .sampling import Sampling


class Schedule(NamedTuple):
    """Which images are in progress at once.

    Attributes:
        slots: images, all groups together.
        stagger: passes of a group between the starts of two images.
        groups: that take turns on the device.
    """

    slots: int
    stagger: int
    groups: int

    @classmethod
    def of(cls, how: Backend, groups: int, images: int, scales: int) -> Schedule:
        """What the options say; as many slots as are of use. Raises UsageError."""
        slots = how.useful_slots(images, scales, groups)
        if groups > slots:
            raise click.UsageError(
                f"--groups {groups}: each needs an image in progress, and there "
                f"{'is' if slots == 1 else 'are'} {slots}; draw more images, or give more --slots"
            )
        return cls(slots, how.stagger, groups)


class HostFiles(NamedTuple):
    """What stands for the model; all three are written by `lutvar pack`.

    Attributes:
        image: the device's memory.
        model: embeddings and codebook.
        decoder: for ONNX Runtime; None: the image's, on the device.
    """

    image: Path
    model: Path
    decoder: Path | None


def host_files(
    device: str | None, image: Path | None, model: Path, decoder: Path | None, groups: int = 1
) -> HostFiles:
    """Check the options that go with --host-model. Raises UsageError, and BadInput for a URL."""
    refuse_with("--host-model", model="--model", backend="--backend", recipe="--quantized")
    if device is None or image is None or decoder in (GOLDEN_DECODER, HOST_DECODER):
        raise click.UsageError(
            "--host-model goes with --device, --image and, unless the device decodes, --decoder "
            "FILE (lutvar pack writes the files); lutvar.host.generate in Python stops at the "
            "decoder's input"
        )
    if groups > 1:
        from lutvar.host.open import parse

        address = parse(device)
        if address.scheme == "replay" or "record" in address.settings:
            raise click.UsageError(
                f"--groups {groups} uses the device in another order each time, which no record "
                "plays back; record and replay with one group"
            )
    decoder = None if decoder == DEVICE_DECODER else decoder
    if find_spec("PIL") is None:
        raise ImportError("PIL is not installed; run: pip install 'lutvar[board]'")
    return HostFiles(image, model, decoder)


def generate_host(
    files: HostFiles,
    how: Backend,
    labels: Sequence[Label],
    seed: int,
    sampling: Sampling,
    dump: Path,
    groups: int = 1,
) -> Row:
    """Generate one image for each class.

    Args:
        files: what `host_files` returned.
        how: device, accelerator, images at a time and passes between their starts.
        labels: classes, None for a random one; no label: every class once.
        seed: of the first image; the next one has the next.
        sampling: guidance and the rest.
        dump: file for what the device says when it fails.
        groups: of images; host and device are at work at the same time, each for other groups.

    Raises:
        UsageError: a group would have no image.
        BadInput: a file that is none of `lutvar pack`'s, or of another model than the image.
        HostError: what the device raises.
    """
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.host.decoder import OnnxDecoder
    from lutvar.host.device_decoder import DecodeReport
    from lutvar.host.errors import BadInput
    from lutvar.host.generate import HostModel, generate
    from lutvar.host.overlap import generate_overlapped
    from lutvar.host.session import Session
    from lutvar.host.transformer import PassReport
    from lutvar.times import Times

    model = HostModel.load(files.model)
    packed = PackedTransformer.load(files.image, load_accelerator(how.config))
    if (here := packed.model.get("fingerprint")) != model.fingerprint:
        raise BadInput(
            f"{files.model}: of a model with fingerprint {model.fingerprint[:16] or 'none'}, "
            f"{files.image} of one with {str(here)[:16]}; take both from one run of lutvar pack"
        )
    decode = None if files.decoder is None else OnnxDecoder(files.decoder)
    if decode is not None:
        decode.check(model.codebook.shape[1], model.patch_nums[-1])
    if decode is None and packed.decoder is None:
        raise BadInput(f"{files.image}: has no decoder; pack it with one, or give --decoder FILE")
    null = len(model.classes) - 1
    names = model.names or tuple(map(str, range(null)))
    wanted = labels or range(null)
    seeds = [seed + i for i in range(len(wanted))]
    classes = [-1 if c == null else c for c in resolve_classes(wanted, seeds, null)]
    slots, stagger, _ = Schedule.of(how, groups, len(classes), len(model.patch_nums))
    reports: list[PassReport] = []
    decodes: list[DecodeReport] = []
    times = Times()
    with progress("model to the device: MiB") as update:
        session = Session.open(
            str(how.device), packed, slots=slots, on_pass=reports.append, say=note,
            progress=lambda done: update(done >> 20, len(packed.image) >> 20), dump=dump,
            decode=decode is None, groups=groups,
        )  # fmt: skip
    with session, progress(f"{how.device}: images") as update:
        for decoder in session.transformer.decoders:
            decoder.on_image = decodes.append
        decoders = [decode] if decode is not None else session.transformer.decoders
        started = time.monotonic()
        if groups > 1:
            made = generate_overlapped(
                model, session.transformer, classes, seeds, **sampling.settings(model),
                times=times, groups=groups, slots=slots, stagger=stagger, decoders=decoders,
                progress=update,
            )  # fmt: skip
        else:
            made = generate(
                model, session.transformer, classes, seeds, **sampling.settings(model),
                times=times, slots=slots, stagger=stagger, decode=decoders[0], progress=update,
            )  # fmt: skip
        elapsed = time.monotonic() - started
    import numpy as np

    return Row(
        np.stack([one.image for one in made if one.image is not None]),
        [[int(t) for scale in one.tokens for t in scale] for one in made],
        classes,
        [class_name(names, label) for label in classes],
        times.seconds,
        reports,
        decodes,
        elapsed if groups > 1 else None,
    )
