# SPDX-License-Identifier: Apache-2.0
"""Files of recipes as models of an accelerator."""

from pathlib import Path

import numpy as np
import pytest

from lutvar.quant.methods import load_recipe, quantize_var
from lutvar.quant.methods.errors import QuantizedFileError
from lutvar.quant.models import load_model
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var.sites import LinearSite
from lutvar.sim.run.session import quantize


def saved(recipe: str, folder: Path) -> Path:
    """A recipe without data on digits, as `lutvar quantize` writes it."""
    var = load_model("digits").var
    path = folder / f"{recipe}.safetensors"
    quantize_var(var, load_recipe(recipe)).save(path, var)
    return path


def test_codes_of_the_file_are_those_that_run(tmp_path: Path) -> None:
    """Hadamard and dual format without rounding of its own: what the accelerator does anyway."""
    from_file = quantize("digits", "small-fp4", saved("fpqvar-fp4-no-galt", tmp_path)).transformer
    plain = quantize("digits", "small-fp4").transformer
    assert from_file.config == plain.config and set(from_file.layers) == set(plain.layers)
    for site in (LinearSite(0, "qkv"), LinearSite(3, "fc2")):
        assert np.array_equal(from_file.layers[site].codes, plain.layers[site].codes)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = saved("fpqvar-fp4-no-galt", tmp_path)
    with pytest.raises(ValueError, match="needs the formats of preset fp4, small-fp6 has those of"):
        quantize("digits", "small-fp6", path)
    with pytest.raises(QuantizationError, match="does not run on the accelerator"):
        quantize("digits", "small-fp4", saved("int4-rtn", tmp_path))
    with pytest.raises(QuantizedFileError, match="model"):
        quantize("cifar10", "small-fp4", path)
