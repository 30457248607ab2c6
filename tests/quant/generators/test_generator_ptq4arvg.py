# SPDX-License-Identifier: Apache-2.0
"""PTQ4ARVG on RAR beside its released code: the same size of error, and how far apart they are.

The released script finds the ranges of proj, fc2 and attention once, before shifts and factors, on
inputs that other quantizers have rounded; recipe `ptq4arvg-rar-w6a6` finds them block by block
after. Two quantized models whose ranges differ a little round differently everywhere.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.quant.methods import CalibrationSet, Recipe, load_recipe, quantize_var
from lutvar.quant.methods.generator import generator_of
from support.quant.generator_cases import CASES, model_of

STORED = Path(__file__).parent / "data" / "ptq4arvg.npz"


@pytest.mark.parametrize(("bits", "apart"), [(8, 0.022), (6, 0.07)])
def test_the_error_is_that_of_the_released_code(bits: int, apart: float) -> None:
    with np.load(STORED) as file:
        tokens, labels = (torch.from_numpy(file[name]).long() for name in ("tokens", "labels"))
        right = torch.from_numpy(file[f"w{bits}a{bits}"])
    recipe = load_recipe("ptq4arvg-rar-w6a6")
    recipe = Recipe.model_validate_json(recipe.model_dump_json().replace("INT6", f"INT{bits}"))
    model, kept = model_of(CASES[0]), len(right)
    generator = generator_of(model)

    def logits() -> torch.Tensor:
        return torch.cat(generator.replay(labels[:kept], tokens[:kept]), 1)[:, model.lead :]

    exact = logits()
    quantized = quantize_var(model, recipe, CalibrationSet(labels, tokens, tokens))
    with quantized.installed(model):
        found = logits()
    theirs, ours = (float((x - exact).norm() / exact.norm()) for x in (right, found))
    assert ours == pytest.approx(theirs, rel=0.1)
    assert float((found - right).norm() / right.norm()) < apart
