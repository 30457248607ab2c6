# SPDX-License-Identifier: Apache-2.0
"""Presets as recipes: the export is what `quantize_transformer` makes, to the last bit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.cli.main import run
from lutvar.contract.quant_preset import QuantConfig, load_quant
from lutvar.quant.eval.subject import SubjectName, load_subject
from lutvar.quant.methods import QuantizedVar, RecipeError, preset_recipe, quantize_var
from lutvar.quant.methods.hardware.export import export, export_file
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers import state
from lutvar.quant.methods.recipes.recipe import Recipe
from lutvar.quant.ptq import QuantizationError, QuantizedTransformer, quantize_transformer
from lutvar.quant.ptq.weights import fold_scales, folded_constant
from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.sites import LinearSite
from lutvar.sim.run.session import quantize

SMALL = VarConfig(
    depth=2, width=128, heads=2, patch_nums=(1, 2), num_classes=3, vocab=128, z_channels=8
)
#: Everything rotated, with another seed.
OTHER = QuantConfig.model_validate(
    {
        "name": "other",
        "weight": "E2M1",
        "hadamard_seed": 7,
        "sites": {n: {"activation": "E2M1", "rotate": True} for n in ("qkv", "proj", "fc1", "fc2")},
    }
)


def small() -> Var:
    """Weights with few bits, as checkpoints in half precision have: ties are then common."""
    torch.manual_seed(0)
    var = Var(SMALL).eval()
    with torch.no_grad():
        for name, value in var.named_parameters():
            if name.endswith("weight"):
                value.copy_((torch.randn_like(value) * 24).round() / 64)
    return var


def assert_equal(found: QuantizedTransformer, expected: QuantizedTransformer) -> None:
    assert found.config == expected.config and set(found.layers) == set(expected.layers)
    for site, layer in expected.layers.items():
        other = found.layers[site]
        for name in ("codes", "scales", "bias"):
            assert np.array_equal(getattr(other, name), getattr(layer, name)), (site, name)
        for name in ("exponent", "rotate", "ties", "hadamard_seed", "activation_format"):
            assert getattr(other, name) == getattr(layer, name), (site, name)
    assert np.array_equal(found.kappa, expected.kappa)
    for label in range(expected.classes + 1):
        pairs = zip(found.class_vectors(label), expected.class_vectors(label), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "config", [load_quant("fp4"), load_quant("fp6"), OTHER], ids=lambda c: c.name
)
def test_export_is_that_of_the_preset(
    config: QuantConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    var, path = small(), tmp_path / "q.safetensors"
    made = quantize_var(var, preset_recipe(config))
    report = hardware(made, var)
    assert not report.missing and report.runs == (config is not OTHER)
    made.save(path, var)
    expected = quantize_transformer(var, config, progress=False)
    assert_equal(export(QuantizedVar.load(path, var), var), expected)

    def no_floats(*_arguments: object) -> torch.Tensor:
        raise AssertionError("a layer's weight is made in float")

    monkeypatch.setattr(state, "values", no_floats)
    recipe, found = export_file(path, var)
    assert_equal(found, expected)
    assert recipe.name == config.name


def test_scales_are_rounded_from_absolute_maxima() -> None:
    """Groups whose FP16 scale would be another one if it came from the float32 grid step."""
    config, site = load_quant("fp4"), LinearSite(0, "qkv")
    fmt = config.weight_format
    constant = folded_constant(config.sites["qkv"].format, fmt, True)
    # One weight in a group: after the rotation all 128 are that weight / sqrt(128). These make
    # folded scales next to odd multiples of half an FP16 step, of either side.
    ties = torch.arange(2049, 4095, 2, dtype=torch.float64) / 2**10
    weights = (ties * fmt.scale_top() ** 2).float()
    peaks = (weights.double() / math.sqrt(128)).float()

    def patterns(values: torch.Tensor) -> np.ndarray:
        return fold_scales(site, values[:, None] * constant)[0][:, 0]

    steps = (peaks / fmt.scale_top()).double() * fmt.scale_top()
    differs = np.flatnonzero(patterns(peaks.double()) != patterns(steps))
    assert len(differs) > 50
    var = small()
    with torch.no_grad():
        weight = var.blocks[0].attn.mat_qkv.weight
        weight.zero_()
        weight[: len(differs), 0] = weights[torch.from_numpy(differs)][: len(weight)]
        weight[-1, 0] = weights[-1]  # the layer's exponent is that of `patterns`
    made = export(quantize_var(var, preset_recipe(config)), var)
    assert_equal(made, quantize_transformer(var, config, progress=False))


def test_what_cannot_be_kept_or_multiplied_is_refused() -> None:
    config = load_quant("fp4")
    with pytest.raises(RecipeError, match=r"preset fp4: ties are 'up'.*even"):
        preset_recipe(config.model_copy(update={"ties": "up"}))
    var = small()
    values = preset_recipe(config).model_dump()
    values["layers"]["proj"]["weight"]["group"] = 64
    with pytest.raises(ValueError, match=r"block0\.proj: weight .*one scale for 128 values"):
        quantize_var(var, Recipe.model_validate(values))
    del values["layers"]["proj"]["input"]
    with pytest.raises(ValueError, match=r"block0\.proj: array-rounding needs formats of weight"):
        quantize_var(var, Recipe.model_validate(values))
    with torch.no_grad():
        var.blocks[1].ffn.fc2.bias[3] = 1e30
    with pytest.raises(QuantizationError, match=r"block1\.fc2: bias\[3\] is .*at most 2\*\*64"):
        quantize_var(var, preset_recipe(config))


def test_command_writes_what_everything_else_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fp4.safetensors"
    assert run(["quantize", "--model", "digits", "--preset", "fp4", "-o", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["hardware"]["preset"] == "fp4" and data["hardware"]["runs"]
    assert data["coverage"]["fc2"] == data["coverage"]["head"] == "W4A4"
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no part of the run is left"
    from_file = quantize("digits", "small-fp4", path).transformer
    assert_equal(from_file, quantize("digits", "small-fp4").transformer)
    assert load_subject(SubjectName("digits", str(path))).name == str(path)


def test_command_writes_through_a_device(tmp_path: Path) -> None:
    """The run's folder is then no neighbour of the target: nobody wants /dev/null.parts."""
    link = tmp_path / "null"
    link.symlink_to("/dev/null")
    before = set(Path("/dev").iterdir())
    assert run(["quantize", "--model", "digits", "--preset", "fp4", "-o", str(link)]) == 0
    assert link.is_symlink() and link.is_char_device()
    assert set(Path("/dev").iterdir()) == before and list(tmp_path.iterdir()) == [link]
