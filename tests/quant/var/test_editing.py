# SPDX-License-Identifier: Apache-2.0
"""Editing on the shipped digits model: kept tokens, schedules, golden model, labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from lutvar.contract.editing import Edit, EditError
from lutvar.contract.labels import random_class
from lutvar.contract.passes import ImageStep, Transformer
from lutvar.contract.regions import box_mask
from lutvar.quant.golden import GoldenTransformer
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.runnable import quantize
from lutvar.quant.var import encode_edits, generate
from lutvar.quant.var.generate import GenerationResult
from lutvar.quant.var.passes import FloatTransformer, generate_passes

CENTRE = box_mask((0.25, 0.25, 0.75, 0.75), 4)


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_model("digits")


@pytest.fixture(scope="module")
def images(loaded: LoadedModel) -> torch.Tensor:
    """Drawn by the model, [3, 1, 8, 8] in [-1, 1]."""
    return generate(loaded.var, loaded.vqvae, [3, 8, 0], [0, 1, 2]).images_BCHW * 2 - 1


def edited(
    loaded: LoadedModel, transformer: Transformer, edits: Sequence[Edit] | None, **settings: object
) -> GenerationResult:
    return generate_passes(
        loaded.var, loaded.vqvae, transformer, [7, -1, None], [4, 5, 6], 2.0, edits=edits,
        **settings,  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("smooth", [False, True])
def test_given_tokens_stay_and_others_are_drawn(
    loaded: LoadedModel, images: torch.Tensor, smooth: bool
) -> None:
    edits = encode_edits(loaded.vqvae, images, CENTRE)
    result = edited(loaded, FloatTransformer(loaded.var), edits, smooth=smooth)
    assert result.labels == (7, 10, random_class(6, 10))
    given = loaded.vqvae.encode(images)
    changed = 0
    for scale, tokens in enumerate(result.tokens):
        for i, edit in enumerate(edits):
            same = (tokens[i] == given[scale][i]).numpy()
            assert same[edit.keep[scale]].all()
            changed += int((~same).sum())
    assert changed > 5


def test_images_in_any_schedule_are_the_same(loaded: LoadedModel, images: torch.Tensor) -> None:
    edits = encode_edits(loaded.vqvae, images, [CENTRE, ~CENTRE, CENTRE])
    float_model = FloatTransformer(loaded.var)
    together = edited(loaded, float_model, edits, smooth=True)
    alone = edited(loaded, float_model, edits, smooth=True, slots=1)
    apart = edited(loaded, float_model, edits, smooth=True, slots=2, stagger=1)
    for other in (alone, apart):
        assert torch.equal(together.images_BCHW, other.images_BCHW)
        assert all(torch.equal(a, b) for a, b in zip(together.tokens, other.tokens, strict=True))


def test_an_edit_that_keeps_all_is_the_given_image(
    loaded: LoadedModel, images: torch.Tensor
) -> None:
    """Only in Python: a mask is refused, and smoothing must not touch what stays."""
    tokens = loaded.vqvae.encode(images)
    edits = [
        Edit(tuple(t[i].numpy() for t in tokens), tuple(np.ones(len(t[i]), bool) for t in tokens))
        for i in range(3)
    ]
    result = edited(loaded, FloatTransformer(loaded.var), edits, smooth=True)
    assert all(torch.equal(a, b) for a, b in zip(tokens, result.tokens, strict=True))
    torch.testing.assert_close(result.images_BCHW, loaded.vqvae.decode(tokens), rtol=0, atol=1e-5)


class Seen:
    """Passes steps on and keeps the embeddings that came in."""

    def __init__(self, inner: Transformer) -> None:
        self.inner = inner
        self.inputs: list[np.ndarray] = []

    def run(self, steps: Sequence[ImageStep]) -> list[np.ndarray]:
        self.inputs += [step.x_cond for step in steps]
        return self.inner.run(steps)


def test_the_golden_model_edits(loaded: LoadedModel, images: torch.Tensor) -> None:
    """Given tokens stay on any transformer; the kept region reaches it through the feature map."""
    golden = GoldenTransformer(quantize("digits", "small-fp4").transformer)
    edits = encode_edits(loaded.vqvae, images, CENTRE)
    first, plain = Seen(golden), Seen(golden)
    result = edited(loaded, first, edits)
    without = edited(loaded, plain, None)
    for edit, i in zip(edits, range(3), strict=True):
        for scale, tokens in enumerate(result.tokens):
            kept = edit.keep[scale]
            np.testing.assert_array_equal(tokens[i].numpy()[kept], edit.tokens[scale][kept])
    assert np.array_equal(first.inputs[0], plain.inputs[0])  # the first scale knows no image
    assert not np.array_equal(first.inputs[3], plain.inputs[3])
    assert not torch.equal(result.images_BCHW, without.images_BCHW)


def test_what_is_refused(loaded: LoadedModel, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="2 masks for 3 images"):
        encode_edits(loaded.vqvae, images, [CENTRE, CENTRE])
    with pytest.raises(EditError, match=r"needs \(4, 4\) booleans"):
        encode_edits(loaded.vqvae, images, CENTRE[:3])
    with pytest.raises(ValueError, match="images of shape"):
        encode_edits(loaded.vqvae, images[..., :4], CENTRE)
    edits = encode_edits(loaded.vqvae, images, CENTRE)
    for draw in (
        lambda: edited(loaded, FloatTransformer(loaded.var), edits[:2]),
        lambda: generate(loaded.var, loaded.vqvae, [1, 2], 0, edits=edits),
    ):
        with pytest.raises(EditError, match="edits for"):
            draw()


def test_random_classes_of_a_batch(loaded: LoadedModel) -> None:
    """With a seed for each image its class is that of `generate_passes`."""
    result = generate(loaded.var, loaded.vqvae, [None, 2, None], [11, 12, 13])
    assert result.labels == (random_class(11, 10), 2, random_class(13, 10))
    named = generate(loaded.var, loaded.vqvae, list(result.labels), [11, 12, 13])
    assert torch.equal(result.images_BCHW, named.images_BCHW)
