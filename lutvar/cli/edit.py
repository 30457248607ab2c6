# SPDX-License-Identifier: Apache-2.0
"""`lutvar edit`: parts of an image drawn anew, around or inside a box or a mask."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lutvar.files import not_a_file, prepare_output, rendered, write_file

from .backends import Backend, backend_options
from .common import beside, command, emit, json_option, note, out_option, seed_option
from .row import describe
from .sampling import Sampling, class_option, labels_of, sampling_options

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lutvar.contract.editing import Mask
    from lutvar.quant.var import VqvaeConfig
    from lutvar.quant.var.image_files import GivenImage

_SHEET = ".sheet.png"
_FILE = click.Path(dir_okay=False, path_type=Path)


class _Box(click.ParamType):  # type: ignore[type-arg]  # not generic in every click
    """Four numbers with commas between them."""

    name = "box"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 4:
            self.fail(f"{value!r}: give four numbers, TOP,LEFT,BOTTOM,RIGHT", param, ctx)
        return numbers


@command("edit")
@backend_options("--packed")
@click.option("--image", type=_FILE, required=True, metavar="FILE", help="The given image.")
@click.option(
    "--box",
    type=_Box(),
    metavar="TOP,LEFT,BOTTOM,RIGHT",
    help="What to draw anew: fractions of the side, rounded to cells of the last token map; or, "
    "with a number above 1, pixels of the model's image, every cell that they touch.",
)
@click.option(
    "--mask",
    "mask_file",
    type=_FILE,
    metavar="FILE",
    help="Instead of --box: a black and white image as large as the given one; white is drawn "
    "anew.",
)
@click.option(
    "--outside",
    is_flag=True,
    help="Out-painting: keep the box (or the white of the mask) and draw what is around it.",
)
@click.option(
    "--border",
    type=click.IntRange(0),
    default=0,
    help="Draw so many more cells around the region, whose tokens its pixels reach into.",
)
@class_option("none, which is in- or out-painting; a class edits towards it")
@click.option("--count", type=click.IntRange(1, 64), default=1, help="Results for each class.")
@seed_option
@sampling_options(smooth=True)
@click.option(
    "--paste/--no-paste",
    default=False,
    help="Put the given image's own pixels over the kept cells of the result.",
)
@out_option("PNG file of the edited image.", "build/edit.png", endings=(".png",))
@json_option
def edit(
    how: Backend,
    image: Path,
    box: tuple[float, ...] | None,
    mask_file: Path | None,
    outside: bool,
    border: int,
    labels: tuple[int | str, ...],
    count: int,
    seed: int,
    sampling: Sampling,
    paste: bool,
    out: Path,
    as_json: bool,
) -> None:
    """Draw a part of an image anew: in-painting, out-painting, class-conditional editing.

    The image's middle square is cut out and scaled to the model's size. Tokens of the kept cells
    are the given image's at every scale; their pixels are what the decoder makes of them and of the
    coarser cells around. Result i has seed SEED + i. FILE is the edited image in the model's size,
    with several results FILE-1, FILE-2 and so on; beside it FILE.sheet.png shows the given image,
    the mask at every scale and all results. docs/editing.md says more.
    """
    how.check("--packed")
    if (box is None) == (mask_file is None):
        raise click.UsageError("give either --box or --mask")
    for given_file in (image, mask_file):  # first: a wrong name must not wait for torch
        if given_file is not None and (reason := not_a_file(given_file)):
            raise click.UsageError(f"{given_file}: {reason}")
    wanted = [label for label in labels_of(labels) or [-1] for _ in range(count)]
    files = _files(out, len(wanted))
    for file in files:
        prepare_output(file)
    loaded = how.load()
    from lutvar.contract.regions import grown
    from lutvar.quant.var.editing import encode_edits
    from lutvar.quant.var.image_files import read_image

    from .edit_result import EditResult

    vqvae, info = loaded.model.vqvae, loaded.model.info
    given = read_image(image, vqvae.config)
    if given.changed:
        note(f"{image}: {given.changed}")
    mask = grown(_mask(box, mask_file, given, vqvae.config, outside), border)
    pixels_BCHW = given.image_CHW[None]
    one = encode_edits(vqvae, pixels_BCHW, mask)
    seeds = [seed + i for i in range(len(wanted))]
    drawn = how.draw(loaded, sampling, wanted, seeds, out.parent, one * len(wanted))
    result = EditResult(loaded.model, pixels_BCHW, mask, drawn.row(info), outside, paste)
    images = result.images()
    for file, edited in zip(files, images, strict=True):
        _write(file, edited)
    sheet = beside(out, _SHEET)
    if sheet is not None:
        result.sheet(sheet, images, seeds, count, f"{how.what} {how.name}")
    data: dict[str, Any] = {
        "files": [str(file) for file in files],
        "sheet": None if sheet is None else str(sheet),
        "backend": how.name,
        "seed": seed,
        "sampling": sampling.settings(info),
        **result.data(),
    }
    written = str(out) if len(files) == 1 else f"{files[0]} to {files[-1].name}"
    text = f"{written}: {result.task}, {how.what} {how.name}, seed {seed}\n{result.kept_text()}"
    if sheet is not None:
        text = f"{sheet}: given image, masks, results\n{text}"
    emit(as_json, data, describe(result.row, data, text, how.name))


def _mask(
    box: tuple[float, ...] | None,
    file: Path | None,
    given: GivenImage,
    config: VqvaeConfig,
    outside: bool,
) -> Mask:
    """The mask over the last token map. Raises EditError or ImageError."""
    from lutvar.contract.regions import box_mask, box_pixels, pixel_mask
    from lutvar.quant.var.image_files import read_mask

    side = config.patch_nums[-1]
    if file is not None:
        return read_mask(file, given, config, outside)
    assert box is not None
    if max(box) <= 1:
        return box_mask(box, side, outside)
    return pixel_mask(box_pixels(box, config.image_size, outside), side)


def _files(out: Path, count: int) -> list[Path]:
    """One file for each result: the given name, or numbered ones beside it."""
    if count == 1:
        return [out]
    if out.exists() and not out.is_file():
        raise click.UsageError(f"{out} takes one image; give a file's name for {count} results")
    return [out.with_name(f"{out.stem}-{i + 1}{out.suffix}") for i in range(count)]


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    from PIL import Image

    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    write_file(path, rendered(lambda file: picture.save(file, format="PNG")))
