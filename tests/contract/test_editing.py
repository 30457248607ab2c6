# SPDX-License-Identifier: Apache-2.0
"""Masks and edits: PyTorch's resizing, boxes, pixels, borders, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutvar.contract.editing import Edit, EditError, Mask, check_edits, check_mask, masks_of
from lutvar.contract.regions import box_mask, box_pixels, grown, pixel_mask
from lutvar.contract.shape import OFFICIAL_SIZES

SIDES = (1, 2, 4)


def some_masks(size: int) -> list[Mask]:
    rng = np.random.default_rng(size)
    masks = [rng.random((size, size)) < share for share in (0.3, 0.5, 0.8)]
    for _ in range(12):
        top, bottom = sorted(rng.integers(0, size + 1, 2))
        left, right = sorted(rng.integers(0, size + 1, 2))
        inside = np.zeros((size, size), bool)
        inside[top:bottom, left:right] = True
        masks += [inside, ~inside]
    return masks


@pytest.mark.parametrize("size", [4, 7, 8, 10, 16, 24, 32])
def test_scales_are_those_of_pytorch(size: int) -> None:
    """Every side below the last one, and so the sizes of every model; more than one in a batch."""
    masks = some_masks(size)
    batch = torch.from_numpy(np.stack(masks))[:, None].float()
    for side in range(2, size + 1):
        resized = F.interpolate(batch, size=(side, side), mode="bilinear", align_corners=False)
        wanted = (resized > 0.5)[:, 0].numpy()
        found = np.stack([masks_of(mask, (side, size))[0] for mask in masks])
        np.testing.assert_array_equal(found, wanted, err_msg=f"{size} to {side}")


def test_the_coarsest_map_is_kept() -> None:
    for _, sides, _ in OFFICIAL_SIZES.values():
        scales = masks_of(~box_mask((0, 0, 1, 0.5), sides[-1]), sides)
        assert [m.shape for m in scales] == [(p, p) for p in sides]
        assert scales[0].all() and not scales[-1].all()
        np.testing.assert_array_equal(scales[-1], ~box_mask((0, 0, 1, 0.5), sides[-1]))


def test_boxes_in_fractions() -> None:
    """Rounded to cells, a half to the even one, as the notebook's `round` does."""
    assert np.argwhere(~box_mask((0.25, 0, 0.75, 0.5), 4)).tolist() == [
        [1, 0],
        [1, 1],
        [2, 0],
        [2, 1],
    ]
    assert (~box_mask((0, 0, 0.625, 0.875), 4)).sum() == 2 * 4  # 2.5 and 3.5 rows
    inside = box_mask((0.1, 0.1, 0.8, 0.8), 16, outside=True)
    assert inside.sum() == 11 * 11 and inside[2, 2] and inside[12, 12]
    np.testing.assert_array_equal(inside, ~box_mask((0.1, 0.1, 0.8, 0.8), 16))


def test_every_touched_cell_is_regenerated() -> None:
    pixels = box_pixels((3, 4, 5, 8), 8)
    assert np.argwhere(~pixel_mask(pixels, 4)).tolist() == [[1, 2], [1, 3], [2, 2], [2, 3]]
    around = pixel_mask(box_pixels((3, 4, 7, 8), 8, outside=True), 4)
    assert np.argwhere(around).tolist() == [[2, 2], [2, 3]]  # the cells that are inside as a whole
    # Pixels of another size, some across the edge of two cells.
    wide = np.zeros((10, 10), bool)
    wide[2, 9] = True  # rows 0.8 to 1.2 of 4
    assert np.argwhere(~pixel_mask(wide, 4)).tolist() == [[0, 3], [1, 3]]
    small = np.eye(2, dtype=bool)  # fewer pixels than cells
    np.testing.assert_array_equal(pixel_mask(small, 4), np.kron(~small, np.ones((2, 2), bool)))


def test_a_border() -> None:
    mask = np.ones((6, 6), bool)
    mask[0, 3] = False
    assert np.argwhere(~grown(mask, 1)).tolist() == [[r, c] for r in (0, 1) for c in (2, 3, 4)]
    np.testing.assert_array_equal(grown(mask, 0), mask)
    assert not grown(mask, 6).any() and mask.sum() == 35
    with pytest.raises(EditError, match="-1 cells"):
        grown(mask, -1)


def tokens_of(value: int = 3) -> list[np.ndarray]:
    return [np.full(p * p, value) for p in SIDES]


def test_kept_cells_take_the_given_token() -> None:
    edit = Edit.of(tokens_of(), box_mask((0, 0, 0.5, 1), 4), SIDES)
    drawn = np.arange(16)
    np.testing.assert_array_equal(edit.tokens_after(2, drawn), [*range(8), *[3] * 8])
    values = edit.merged(2, np.zeros((16, 5)), np.ones((16, 5)))
    np.testing.assert_array_equal(values[:, 0], [0] * 8 + [1] * 8)
    assert check_edits([edit], 1, SIDES, 4) == [edit]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((0.5, 0, 0.5, 1), "top < bottom"),
        ((0, 0.5, 1, 0.2), "left < right"),
        ((0, 0, 1, 1.5), "from 0 to 1"),
        ((-0.1, 0, 1, 1), "from 0 to 1"),
        ((0, 0, 1), "four numbers"),
        ((0, 0, 1, float("nan")), "four numbers"),
    ],
)
def test_a_box_that_is_none(box: tuple[float, ...], message: str) -> None:
    with pytest.raises(EditError, match=message):
        box_mask(box, 4)
    with pytest.raises(EditError, match="whole numbers"):
        box_pixels((0, 0, 2.5, 3), 8)
    with pytest.raises(EditError, match="pixels from 0 to 8"):
        box_pixels((0, 0, 9, 3), 8)


def test_masks_and_tokens_that_are_refused() -> None:
    mask = box_mask((0, 0, 0.5, 1), 4)
    for wrong in (mask[:3], mask.astype(int), np.ones((5, 5), bool)):
        with pytest.raises(EditError, match=r"needs \(4, 4\) booleans"):
            check_mask(wrong, 4)
    with pytest.raises(EditError, match="keeps every cell"):
        check_mask(np.ones((4, 4), bool), 4)
    with pytest.raises(EditError, match="keeps no cell"):
        check_mask(np.zeros((4, 4), bool), 4)
    with pytest.raises(EditError, match="one token and one boolean"):
        Edit.of(tokens_of()[:2], mask, SIDES)
    with pytest.raises(EditError, match="type float64"):
        Edit((np.zeros(1, np.int64),), (np.zeros(1),))  # type: ignore[arg-type]
    edit = Edit.of(tokens_of(), mask, SIDES)
    with pytest.raises(EditError, match="1 edits for 2 images"):
        check_edits([edit], 2, SIDES, 4)
    with pytest.raises(EditError, match="the scales need"):
        check_edits([edit], 1, (1, 2, 3), 4)
    for wrong_tokens in (tokens_of(4), tokens_of(-1)):
        with pytest.raises(EditError, match="the codebook has 0 to 3"):
            check_edits([Edit.of(wrong_tokens, mask, SIDES)], 1, SIDES, 4)
