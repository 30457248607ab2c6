# SPDX-License-Identifier: Apache-2.0
"""Regenerate data/editing.npz by running the released editing notebook on small random weights.

Usage, in tests: python -m quant.var.make_editing PATH_OF_A_CHECKOUT_OF_FoundationVision/VAR

The functions are taken from the notebook `demo_zero_shot_edit.ipynb` of the checkout as they stand.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.quant.editing_cases import RUNS, STRIDE, Run, case_of, images_of
from support.quant.var_weights import fill

from .make_fixtures import DATA, build, released


def notebook(checkout: Path) -> dict[str, Any]:
    """Names defined by the notebook's cell of helper functions."""
    cells = json.loads((checkout / "demo_zero_shot_edit.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    exec(next(s for s in sources if "def get_edit_mask" in s), names)
    return names


@torch.no_grad()
def expected(models: Any, names: dict[str, Any], run: Run) -> dict[str, np.ndarray]:
    """Tokens as drawn and every few pixels of the images of one run."""
    case = case_of(run)
    vae, var = build(models, case)
    fill(vae)
    fill(var)
    images = images_of(run)
    drawn: list[torch.Tensor] = []
    sample = sys.modules["models.var"].sample_with_top_k_top_p_  # type: ignore[attr-defined]

    def spy(logits: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        tokens = sample(logits, **kwargs)
        drawn.append(tokens[:, :, 0])
        return tokens

    labels = None if run.labels is None else torch.tensor(run.labels)
    settings: dict[str, Any] = {
        "g_seed": run.seed, "cfg": run.cfg, "top_k": run.top_k, "top_p": run.top_p,
        "more_smooth": run.smooth,
    }  # fmt: skip
    if run.box is not None:
        settings["input_img_tokens"] = vae.img_to_idxBl(images, var.patch_nums)
        settings["edit_mask"] = names["get_edit_mask"](
            var.patch_nums, *run.box, device="cpu", inpainting=not run.outside
        )
    names["sample_with_top_k_top_p_"] = spy
    image = names["autoregressive_infer_cfg_with_mask"](var, len(images), labels, **settings)
    return {
        "tokens": torch.cat(drawn, 1).numpy().astype(np.int16),
        "image": image[..., ::STRIDE, ::STRIDE].numpy(),
    }


def main(checkout: Path) -> None:
    models, names = released(checkout), notebook(checkout)
    values = {}
    for run in RUNS:
        with contextlib.redirect_stdout(io.StringIO()):
            result = expected(models, names, run)
        values |= {f"{run.name}.{key}": value for key, value in result.items()}
    np.savez_compressed(DATA / "editing.npz", **values)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
