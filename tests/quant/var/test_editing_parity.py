# SPDX-License-Identifier: Apache-2.0
"""Editing and smooth sampling: the images of the released notebook (data/editing.npz).

The values come from the notebook's own functions on small random weights (`make_editing.py`).
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.contract.editing import Edit
from lutvar.contract.regions import box_mask
from lutvar.quant.var import Var, Vqvae, generate
from lutvar.quant.var.editing import encode_edits
from lutvar.quant.var.generate import GenerationResult
from lutvar.quant.var.passes import FloatTransformer, generate_passes
from support.quant.editing_cases import RUNS, STRIDE, Run, case_of, images_of, plain
from support.quant.var_weights import fill

#: Bound on the difference of pixels in [0, 1] where the processor rounds as the recording one did:
#: an image without editing is the same to the bit. Elsewhere rounding noise remains, which smooth
#: sampling multiplies at every scale by the reciprocal of its temperature.
TOLERANCE, ROUNDED, SMOOTHED = 2e-6, 1e-5, 5e-3


DATA = Path(__file__).parent / "data" / "editing.npz"


@functools.lru_cache(maxsize=1)
def models(name: str) -> tuple[Var, Vqvae]:
    case = case_of(next(run for run in RUNS if run.case == name))
    var, vqvae = Var(case.var).eval(), Vqvae(case.vqvae).eval()
    fill(var)
    fill(vqvae)
    return var, vqvae


@pytest.fixture(scope="module")
def released() -> dict[str, np.ndarray]:
    with np.load(DATA) as file:
        return dict(file)


@functools.cache
def tolerance(case: str, smooth: bool) -> float:
    run, (var, vqvae) = plain(case), models(case)
    assert run.labels is not None
    with np.load(DATA) as file:
        recorded = file[f"{run.name}.image"]
    image = generate(var, vqvae, run.labels, run.seed, run.cfg, run.top_k, run.top_p).images_BCHW
    if np.array_equal(image[..., ::STRIDE, ::STRIDE].numpy(), recorded):
        return TOLERANCE
    return SMOOTHED if smooth else ROUNDED


def edits_of(run: Run, vqvae: Vqvae) -> list[Edit] | None:
    if run.box is None:
        return None
    mask = box_mask(run.box, vqvae.config.patch_nums[-1], run.outside)
    return encode_edits(vqvae, images_of(run), mask)


def compare(run: Run, result: GenerationResult, values: dict[str, np.ndarray]) -> None:
    edits = edits_of(run, models(run.case)[1])
    for i, drawn in enumerate(values[f"{run.name}.tokens"].astype(np.int64)):
        mine = [tokens[i].numpy() for tokens in result.tokens]
        theirs = np.split(drawn, np.cumsum([len(t) for t in mine])[:-1])
        for scale, tokens in enumerate(theirs):
            wanted = tokens if edits is None else edits[i].tokens_after(scale, tokens)
            np.testing.assert_array_equal(mine[scale], wanted)
    image = result.images_BCHW[..., ::STRIDE, ::STRIDE].numpy()
    atol = tolerance(run.case, run.smooth)
    np.testing.assert_allclose(image, values[f"{run.name}.image"], rtol=0, atol=atol)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_images_of_the_notebook(run: Run, released: dict[str, np.ndarray]) -> None:
    var, vqvae = models(run.case)
    result = generate(
        var, vqvae, run.labels or [None] * run.images, run.seed, run.cfg, run.top_k, run.top_p,
        edits=edits_of(run, vqvae), smooth=run.smooth,
    )  # fmt: skip
    compare(run, result, released)


#: One image has one stream here and there; guidance of 3 times 0, 1/2, 1/3 is exact in 1/128.
ALONE = [run for run in RUNS if run.images == 1 and run.case in ("topk_topp", "shared")]


@pytest.mark.parametrize("run", ALONE, ids=lambda run: run.name)
def test_passes_draw_them_too(run: Run, released: dict[str, np.ndarray]) -> None:
    assert run.labels is not None
    var, vqvae = models(run.case)
    result = generate_passes(
        var, vqvae, FloatTransformer(var), run.labels, [run.seed], run.cfg, run.top_k, run.top_p,
        edits=edits_of(run, vqvae), smooth=run.smooth,
    )  # fmt: skip
    compare(run, result, released)
    alone = generate(
        var, vqvae, run.labels, [run.seed], run.cfg, run.top_k, run.top_p,
        edits=edits_of(run, vqvae), smooth=run.smooth,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(alone.tokens, result.tokens, strict=True))


def test_the_runs_are_what_the_release_can_do() -> None:
    """Both tasks, null class and class, with and without smoothing, AdaLN of both kinds."""
    for case in ("topk_topp", "shared"):
        runs = [run for run in RUNS if run.case == case and run.box is not None and run.labels]
        kinds = {(run.outside, (run.labels or (0,))[0] == 5, run.smooth) for run in runs}
        assert len(kinds) == 8
        assert case_of(runs[0]).var.shared_adaln == (case == "shared")
