# SPDX-License-Identifier: Apache-2.0
"""End-to-end tuning: what may move moves, the divergence on other samples falls, it is exported."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lutvar.quant.methods import (
    CalibrationError,
    CalibrationSet,
    Layer,
    QuantizedVar,
    Recipe,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.samples import replay
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers.grid import grid_weight
from lutvar.quant.methods.layers.ranged import RangedLayer
from lutvar.quant.methods.recipes.specs import TuneSpec
from lutvar.quant.methods.recipes.student import TunedLayer
from lutvar.quant.methods.recipes.tune import _samples_of_step, guide_all, mean_kl, tune
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var.sampling import guidance_weight, guide
from lutvar.quant.var.sites import LinearSite


@cache
def digits() -> LoadedModel:
    return load_model("digits")


@cache
def samples(seed: int = 0, count: int = 16) -> CalibrationSet:
    return calibration_set(digits().var, digits().vqvae, count, seed=seed)


def recipe(**changes: Any) -> Recipe:
    values = load_recipe("fpqvar-fp4-no-galt").model_dump()
    return Recipe.model_validate(values | {"calibration": {"samples": 16}} | changes)


def divergence(model: QuantizedVar, guided: bool = False) -> float:
    """On samples that tuning did not see, scale by scale as generation goes."""
    given = samples(7)
    exact = torch.cat(replay(digits().var, given), 1)
    with model.installed(digits().var) as var:
        found = torch.cat(replay(var, given), 1)
        if guided:
            exact, found = (guide_all(x, given.cfg, var) for x in (exact, found))
        return float(mean_kl(exact, found))


def test_divergence_by_hand() -> None:
    exact, value = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[math.log(3.0), 0.0]]])
    by_hand = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert float(mean_kl(exact, value)) == pytest.approx(by_hand)
    both = mean_kl(torch.cat((exact, exact)), torch.cat((value, exact)))
    assert float(both) == pytest.approx(by_hand / 2)


def test_scales_and_biases_are_tuned_and_integers_stay() -> None:
    var, plain = digits().var, quantize_var(digits().var, recipe())
    state = {name: value.clone() for name, value in var.state_dict().items()}
    backends = vars(var.backends).copy()
    spec = TuneSpec(steps=12, batch=8, scales=0.01, biases=0.02)
    seen: list[tuple[int, int]] = []
    made = tune(plain, var, samples(), spec, lambda *done: seen.append(done))
    assert seen == [(i + 1, 12) for i in range(12)]
    assert divergence(made) < 0.98 * divergence(plain)  # 0.92, give or take 0.01
    assert all(torch.equal(value, state[name]) for name, value in var.state_dict().items())
    assert vars(var.backends) == backends
    for site, layer in made.layers.items():
        before, after = grid_weight(plain.layers[site]), grid_weight(layer)
        assert before is not None and after is not None
        assert torch.equal(before.integers_OI, after.integers_OI)
        assert not torch.equal(before.scales.positive, after.scales.positive)
        assert not torch.equal(layer.bias_O, plain.layers[site].bias_O)
    assert "KL of the model" in next(iter(made.layers.values())).notes[-1]
    again = tune(plain, var, samples(), spec)
    for site, layer in made.layers.items():
        assert torch.equal(layer.rounded_OI, again.layers[site].rounded_OI)
    report = hardware(made, var)
    assert report.runs and report.preset == "fp4"
    codes, biases = export(plain, var).layers, export(made, var).layers
    site = LinearSite(1, "fc2")
    assert np.array_equal(codes[site].codes, biases[site].codes)
    assert np.allclose(biases[site].bias, made.layers[site].bias_O.numpy(), atol=1e-7)
    found = biases[site].dequantized()
    assert torch.allclose(found, made.layers[site].rounded_OI, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_integers_move_where_the_recipe_says_so_and_stay_on_the_grid() -> None:
    var, plain = digits().var, quantize_var(digits().var, recipe())
    # With fewer samples and steps the gain on other samples drowns in how a processor rounds.
    spec = TuneSpec(steps=40, batch=16, weights=0.01)
    made = tune(plain, var, samples(count=48), spec)
    assert divergence(made) < divergence(plain)  # 0.90, give or take 0.02
    for site, layer in made.layers.items():
        before, after = grid_weight(plain.layers[site]), grid_weight(layer)
        assert before is not None and after is not None
        share = float((before.integers_OI != after.integers_OI).float().mean())
        assert 0.001 < share < 0.3, f"{site}: {share}"
        assert f"{share:.1%} of the integers moved" in "; ".join(layer.notes)
    site = LinearSite(1, "fc2")
    found = export(made, var).layers[site].dequantized()
    assert torch.allclose(found, made.layers[site].rounded_OI, rtol=1e-3, atol=1e-6)


def test_guided_logits_as_generation_guides_them() -> None:
    var = digits().var
    sides, cfg = var.config.patch_nums, 3.0
    logits = torch.randn(4, var.config.tokens, 5, generator=torch.Generator().manual_seed(0))
    found = guide_all(logits, cfg, var).split([side * side for side in sides], 1)
    parts = logits.split([side * side for side in sides], 1)
    for k, (part, guided) in enumerate(zip(parts, found, strict=True)):
        assert torch.equal(guided, guide(part, guidance_weight(cfg, k, len(sides))))


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_guidance_is_an_objective(direction: str) -> None:
    """The guided divergence of the samples falls further where it counts."""
    plain = quantize_var(digits().var, recipe())
    found = []
    for weight in (0.0, 3.0):
        values = {"steps": 30, "batch": 8, "guidance": weight, "direction": direction}
        spec = TuneSpec.model_validate(values | {"scales": 0.01, "biases": 0.02})
        note = next(iter(tune(plain, digits().var, samples(), spec).layers.values())).notes[-1]
        found.append([float(v) for v in note.split("with guidance ")[1].split(" to ")])
    assert found[0][0] == found[1][0]
    assert found[1][1] < found[0][1] < found[0][0]
    assert divergence(plain, guided=True) == pytest.approx(found[0][0], rel=0.1)


def test_interrupted_run_goes_on_to_the_same_result(tmp_path: Path) -> None:
    class Interrupt(Exception):
        pass

    def interrupt(done: int, of: int) -> None:
        if done == 11:
            raise Interrupt

    var, plain = digits().var, quantize_var(digits().var, recipe())
    spec, state = TuneSpec(steps=13, batch=4, weights=0.01), tmp_path / "tune.pt"
    whole = tune(plain, var, samples(), spec)
    with pytest.raises(Interrupt):
        tune(plain, var, samples(), spec, interrupt, state)
    seen: list[int] = []
    made = tune(plain, var, samples(), spec, lambda done, of: seen.append(done), state)
    assert seen == [11, 12, 13]
    for site, layer in whole.layers.items():
        assert torch.equal(layer.rounded_OI, made.layers[site].rounded_OI)
        assert torch.equal(layer.bias_O, made.layers[site].bias_O)
    state.write_bytes(b"damaged")
    tune(
        plain, var, samples(), TuneSpec(steps=1, batch=4), lambda *done: seen.append(done[0]), state
    )
    assert seen[-1] == 1 and not state.exists()


def test_every_sample_is_seen_once_in_a_pass() -> None:
    steps = [_samples_of_step(k, 4, 18, seed=3) for k in range(8)]
    for part in (steps[:4], steps[4:]):
        assert len(set(torch.cat(part).tolist())) == 16
    assert not torch.equal(torch.cat(steps[:4]), torch.cat(steps[4:]))


def test_one_kind_alone() -> None:
    plain = quantize_var(digits().var, recipe())
    for kind, other in (("scales", "biases"), ("biases", "scales")):
        spec = TuneSpec.model_validate({"steps": 2, "batch": 4, kind: 1e-4, other: 0})
        made = tune(plain, digits().var, samples(), spec)
        for site, layer in made.layers.items():
            if "not kept" in next(iter(made.layers.values())).notes[-1]:
                continue
            kept = plain.layers[site]
            assert torch.equal(layer.bias_O, kept.bias_O) == (kind == "scales")
            assert torch.equal(layer.rounded_OI, kept.rounded_OI) == (kind == "biases")


def test_what_does_not_help_is_not_kept() -> None:
    plain = quantize_var(digits().var, recipe())
    made = tune(plain, digits().var, samples(), TuneSpec(steps=2, batch=4, scales=2.0, biases=50.0))
    for site, layer in made.layers.items():
        assert torch.equal(layer.rounded_OI, plain.layers[site].rounded_OI)
    assert next(iter(made.layers.values())).notes[-1].endswith("; not kept")


def test_scales_with_few_values_stay() -> None:
    pow2 = {"format": "E2M1", "group": 32, "scale": "pow2"}
    plain = quantize_var(digits().var, recipe(layers={"fc1": {"weight": pow2, "input": pow2}}))
    assert all(TunedLayer(layer).log_scale is None for layer in plain.layers.values())


def test_layers_of_ranges_and_missing_samples_are_refused() -> None:
    zeros = torch.zeros(4, 4)
    part = Layer(LinearSite(0, "fc1"), zeros, None, rounded_OI=zeros)
    ranged = RangedLayer(part.site, zeros, None, rounded_OI=zeros, parts=[part], starts=(0,))
    with pytest.raises(ValueError, match=r"block0\.fc1: tune works on layers with one weight"):
        TunedLayer(ranged)
    half = replace(samples(), rows=torch.arange(16))
    plain = quantize_var(digits().var, recipe())
    with pytest.raises(CalibrationError, match="both guidance halves"):
        tune(plain, digits().var, half, TuneSpec(steps=1))
    with pytest.raises(ValueError, match="multiple of 2"):
        TuneSpec(batch=3)
    assert recipe(tune={"steps": 1}).needs_data and not recipe().needs_data
    with pytest.raises(CalibrationError, match="needs calibration samples"):
        quantize_var(digits().var, recipe(tune={"steps": 1}))


def test_student_is_the_model_as_it_generates() -> None:
    """All scales at once behind a mask, records of attention included, give the same divergence."""
    row = {"format": "E2M1", "group": "row"}
    attention = {"kind": "plain", "q": row, "k": row, "v": row}
    spec = TuneSpec(steps=1, batch=16, scales=1e-9)
    exact = torch.cat(replay(digits().var, samples()), 1)
    found = []
    for changes in ({"attention": attention}, {}):
        model = quantize_var(digits().var, recipe(**changes))
        note = next(iter(tune(model, digits().var, samples(), spec).layers.values())).notes[-1]
        found.append(float(note.split("samples ")[1].split(" ")[0]))
        with model.installed(digits().var) as var:
            expected = float(mean_kl(exact, torch.cat(replay(var, samples()), 1)))
        assert found[-1] == pytest.approx(expected, rel=0.02)
    assert found[0] > 1.1 * found[1]


def test_file_is_that_of_one_run_and_progress_counts_on(tmp_path: Path) -> None:
    var, spec = digits().var, {"steps": 3, "batch": 4}
    seen: list[tuple[int, int]] = []
    path = tmp_path / "m.safetensors"
    chosen = recipe(tune=spec)
    report = quantize_to_file(
        var, digits().vqvae, chosen, path, progress=lambda *done: seen.append(done)
    )
    assert report.runs and not (tmp_path / "m.safetensors.parts").exists()
    total = var.config.depth + 1 + 3
    assert seen == [(i + 1, total) for i in range(total)]
    whole = quantize_var(var, chosen, samples())
    loaded = QuantizedVar.load(path, var)
    for site, layer in whole.layers.items():
        assert torch.allclose(layer.rounded_OI, loaded.layers[site].rounded_OI, rtol=1e-4)
        assert torch.allclose(layer.bias_O, loaded.layers[site].bias_O, atol=1e-4)
