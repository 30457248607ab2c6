# SPDX-License-Identifier: Apache-2.0
"""Image and mask files: shapes, modes, and what is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lutvar.quant.models import load_model
from lutvar.quant.var.config import VqvaeConfig
from lutvar.quant.var.image_files import GivenImage, ImageError, read_image, read_mask

#: 8x8 pixels, 4x4 cells.
GREY = load_model("digits").vqvae.config
COLOUR = VqvaeConfig.from_dict(GREY.to_dict() | {"in_channels": 3})
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (8, 8, 3), np.uint8)


def saved(folder: Path, picture: Image.Image, name: str = "x.png", **settings: object) -> Path:
    picture.save(folder / name, **settings)
    return folder / name


def values(path: Path, config: VqvaeConfig = COLOUR) -> np.ndarray:
    """Pixels of a file as 0 to 255, [H, W, C]."""
    image = read_image(path, config).image_CHW
    assert image.dtype == torch.float32 and image.shape[0] == config.in_channels
    return ((image.permute(1, 2, 0).numpy() + 1) / 2 * 255).round(3)


def test_an_image_of_the_right_size_is_taken_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(NOISE))
    np.testing.assert_allclose(values(path), NOISE, atol=1e-3)
    assert read_image(path, COLOUR).changed == ""
    grey = np.array(Image.fromarray(NOISE).convert("L"))[..., None]
    np.testing.assert_allclose(values(path, GREY), grey, atol=1e-3)


def test_other_shapes_are_cut_to_their_middle_and_scaled(tmp_path: Path) -> None:
    wide = np.zeros((16, 40, 3), np.uint8)
    wide[:, 12:28] = np.repeat(np.repeat(NOISE // 128 * 255, 2, 0), 2, 1)
    wide[:, :12] = (255, 0, 0)
    given = read_image(saved(tmp_path, Image.fromarray(wide)), COLOUR)
    assert given.changed == "middle 16x16 of 40x16 scaled to 8x8"
    middle = read_image(saved(tmp_path, Image.fromarray(wide[:, 12:28])), COLOUR)
    assert torch.equal(given.image_CHW, middle.image_CHW)  # nothing of what was cut away
    flat = Image.new("RGB", (3, 5), (10, 20, 30))
    np.testing.assert_allclose(
        values(saved(tmp_path, flat)), np.full((8, 8, 3), (10, 20, 30)), atol=1e-3
    )


@pytest.mark.parametrize(
    ("picture", "value"),
    [
        (Image.new("1", (8, 8), 1), 255),
        (Image.new("L", (8, 8), 77), 77),
        (Image.new("LA", (8, 8), (77, 255)), 77),
        (Image.new("RGBA", (8, 8), (77, 77, 77, 255)), 77),
        (Image.new("RGB", (8, 8), (77, 77, 77)).quantize(4), 77),
        (Image.fromarray(np.full((8, 8), 77 * 257, np.uint16)), 77),
        (Image.fromarray(np.full((8, 8), 65535, np.uint16)), 255),
        (Image.fromarray(np.full((8, 8), 77, np.uint16)), 0),
    ],
    ids=["1", "L", "LA", "RGBA", "P", "16 bits", "16 bits white", "16 bits dark"],
)  # fmt: skip
def test_modes(tmp_path: Path, picture: Image.Image, value: int) -> None:
    path = saved(tmp_path, picture)
    np.testing.assert_allclose(values(path), value, atol=1e-3)
    np.testing.assert_allclose(values(path, GREY), value, atol=1e-3)


def test_cmyk_and_orientation(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.new("CMYK", (8, 8)), "x.jpg")
    np.testing.assert_allclose(values(path), 255, atol=2)
    turned = np.zeros((8, 8), np.uint8)
    turned[:4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by 90 degrees
    path = saved(tmp_path, Image.fromarray(turned), "turned.png", exif=exif)
    np.testing.assert_allclose(values(path, GREY)[..., 0], np.rot90(turned, -1), atol=1e-3)


def test_what_is_no_image(tmp_path: Path) -> None:
    big = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    for name in ("x.png", "x.jpg", "x.gif"):
        whole = saved(tmp_path, big, name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ImageError, match=f"{name}: is a damaged image"):
            read_image(tmp_path / name, COLOUR)
    (tmp_path / "text").write_text("no image")
    with pytest.raises(ImageError, match="no image that Pillow can read"):
        read_image(tmp_path / "text", COLOUR)
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.png", COLOUR)
    with pytest.raises(ImageError, match="is a folder"):
        read_image(tmp_path, COLOUR)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, Image.new("L", (40, 40)))
    for limit in (1000, 500):  # a warning of Pillow's, and an error
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ImageError, match="too many pixels"):
            read_image(path, COLOUR)


def test_transparency_and_wide_pixels_are_refused(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (1, 2, 3, 255))
    clear.putpixel((2, 2), (1, 2, 3, 128))
    with pytest.raises(ImageError, match="1 of 64 pixels are transparent"):
        read_image(saved(tmp_path, clear), COLOUR)
    palette = Image.new("P", (8, 8), 0)
    with pytest.raises(ImageError, match="64 of 64 pixels are transparent"):
        read_image(saved(tmp_path, palette, "p.png", transparency=0), COLOUR)
    wide = Image.fromarray(np.full((8, 8), 0.5, np.float32))
    with pytest.raises(ImageError, match="32 bits"):
        read_image(saved(tmp_path, wide, "f.tif"), COLOUR)


def given(width: int, height: int) -> GivenImage:
    return GivenImage(torch.zeros(3, 8, 8), width, height, "")


def test_masks(tmp_path: Path) -> None:
    """White is drawn anew, in every cell that it touches; the image's cut applies."""
    white = np.zeros((16, 40), np.uint8)
    white[3, 12:16] = 255  # the first of four columns of cells, in the first row
    white[:, :12] = 255  # cut away
    path = saved(tmp_path, Image.fromarray(white))
    wanted = np.ones((4, 4), bool)
    wanted[0, 0] = False
    np.testing.assert_array_equal(read_mask(path, given(40, 16), COLOUR), wanted)
    outside = read_mask(path, given(40, 16), COLOUR, outside=True)
    assert not outside.any()  # no cell is white as a whole
    cells = saved(tmp_path, Image.fromarray(~wanted).convert("1"), "cells.png")
    np.testing.assert_array_equal(read_mask(cells, given(40, 16), COLOUR), wanted)
    pixels = saved(tmp_path, Image.fromarray(np.kron(~wanted, np.ones((2, 2), bool))), "p.png")
    np.testing.assert_array_equal(read_mask(pixels, given(40, 16), COLOUR), wanted)
    np.testing.assert_array_equal(read_mask(pixels, given(9, 9), COLOUR, True), ~wanted)


def test_masks_that_are_none(tmp_path: Path) -> None:
    white = np.zeros((8, 8), np.uint8)
    white[0] = 100
    with pytest.raises(ImageError, match="8 of 64 pixels are neither black nor white"):
        read_mask(saved(tmp_path, Image.fromarray(white)), given(8, 8), COLOUR)
    with pytest.raises(ImageError, match=r"5x5 pixels; .* its image, 40x16, .* 8x8, .* 4x4"):
        read_mask(saved(tmp_path, Image.new("1", (5, 5))), given(40, 16), COLOUR)
