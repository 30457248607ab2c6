# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate`: one row of images from a model on the host or an accelerator by its URL."""

from __future__ import annotations

from pathlib import Path

import click

from lutvar.files import prepare_output

from . import token_images
from .backends import Backend, backend_options
from .common import command, given, json_option, out_option, seed_option
from .generate_host import generate_host, host_files
from .row import finish
from .sampling import Sampling, class_option, labels_of, sampling_options


@command("generate")
@backend_options("--image", "--packed")
@click.option(
    "--host-model",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --device and --image: embeddings and codebook, from `lutvar pack --host-model`. "
    "Nothing else of the model is needed, and no PyTorch; --decoder FILE decodes on this host.",
)
@click.option(
    "--groups",
    type=click.IntRange(1),
    default=1,
    help="With --host-model: groups of images that use the device in turn; while it computes for "
    "one, this host works for another. --slots counts the images of all groups.",
)
@class_option("every class once")
@seed_option
@sampling_options(smooth=False)
@click.option("--zoom", type=click.IntRange(1, 64), default=12, help="Screen pixels per pixel.")
@click.option(
    "--names/--no-names",
    default=True,
    help="Write the class above each image; without, and with --zoom 1, one image is one that "
    "`lutvar edit` takes.",
)
@out_option("PNG file.", "build/generate.png", endings=(".png",))
@json_option
def generate(
    how: Backend,
    host_model: Path | None,
    groups: int,
    labels: tuple[int | str, ...],
    seed: int,
    sampling: Sampling,
    zoom: int,
    names: bool,
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
    how.check("--image", backend_chosen=host_model is None)
    wanted = labels_of(labels)
    if host_model is not None:
        files = host_files(how.device, how.packed, host_model, how.decoder, groups)
        prepare_output(out)
        dump = out.parent / "device-dump.json"
        row = generate_host(files, how, wanted, seed, sampling, dump, groups)
    else:
        if given("groups"):
            raise click.UsageError("--groups goes with --host-model")
        prepare_output(out)
        if token_images.is_token_model(how.model):
            token_images.generate(how, sampling, wanted, seed, zoom, names, out, as_json)
            return
        loaded = how.load()
        wanted = wanted or list(range(len(loaded.model.info.classes)))
        seeds = [seed + i for i in range(len(wanted))]
        row = how.draw(loaded, sampling, wanted, seeds, out.parent).row(loaded.model.info)
    finish(
        row, out, backend=how.name, what=how.what, seed=seed, zoom=zoom, names=names,
        as_json=as_json,
    )  # fmt: skip
