# SPDX-License-Identifier: Apache-2.0
"""Steps that round weights: learned rounding, GPTQ, clip search, and the moments they rest on."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import (
    Block,
    CalibrationError,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.moments import layer_moments, require_data
from lutvar.quant.methods.calibration.samples import CalibrationSet
from lutvar.quant.methods.layers.layer import BlockData
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.methods.layers.rounding import SoftRounding
from lutvar.quant.methods.steps import make_step
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sites import LinearSite


def block_of(
    weight_OI: Tensor, x_BLI: Tensor, weight: QuantizerSpec, given: QuantizerSpec | None = None
) -> tuple[Block, Layer]:
    """A block with one linear and two scale steps."""
    layer = Layer(
        LinearSite(0, "fc1"), weight_OI, None, weight=FakeQuantizer(weight),
        activation=None if given is None else FakeQuantizer(given),
    )  # fmt: skip
    labels = torch.tensor([0, 1, 2, 2]).repeat(len(x_BLI) // 4 + 1)[: len(x_BLI)]
    scales = ((0, 1), (1, x_BLI.shape[1]))
    data = BlockData(None, None, torch.zeros(1), {"fc1": x_BLI, "ada_lin": x_BLI}, scales, labels)
    return Block(0, {"fc1": layer}, None, data), layer


def correlated(rows: int, tokens: int, inputs: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    mix = torch.randn(inputs, inputs, generator=draw) / inputs**0.5
    x = torch.randn(rows, tokens, inputs, generator=draw)
    return x @ mix * torch.linspace(0.3, 3, inputs) + 0.5


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


@pytest.fixture(scope="module")
def calibration(digits: LoadedModel) -> CalibrationSet:
    return calibration_set(digits.var, digits.vqvae, 12, seed=0)


@pytest.mark.parametrize("weighting", ["token", "scale"])
def test_moments_hold_the_output_error(weighting: str) -> None:
    x = correlated(8, 9, 32)
    weight = torch.randn(6, 32, generator=torch.Generator().manual_seed(1))
    spec = QuantizerSpec(format="E2M1", group=16)
    block, layer = block_of(weight, x, spec, spec)
    scale_channels(layer, torch.linspace(0.5, 2, 32))
    moments = layer_moments(block, layer, "test", weighting)  # type: ignore[arg-type]
    layer.finish()
    assert layer.rounded_OI is not None
    square = (layer(x, 0) - x @ weight.mT).square().sum(-1)
    direct = (
        square.mean() if weighting == "token" else (square[:, :1].mean() + square[:, 1:].mean()) / 2
    )
    assert moments.loss(layer.rounded_OI, layer.weight_OI) == pytest.approx(float(direct), rel=1e-4)
    weights = layer.rounded_OI.clone().requires_grad_()
    error = (FakeQuantizer(spec)(layer.prepared(x)) @ weights.mT - x @ weight.mT).square().sum(-1)
    if weighting == "token":
        (gradient,) = torch.autograd.grad(error.mean() / 2, weights)
        assert torch.allclose(
            moments.gradient(layer.rounded_OI, layer.weight_OI), gradient, atol=1e-4
        )


def test_too_little_data_is_named() -> None:
    spec = QuantizerSpec(format="E2M1", group=16)
    block, layer = block_of(torch.ones(4, 64), torch.ones(4, 3, 64), spec)
    with pytest.raises(
        CalibrationError, match=r"64 inputs .* 12 rows \(2 samples\); give at least 11"
    ):
        layer_moments(block, layer, "gptq")
    block, layer = block_of(torch.ones(4, 64), torch.ones(4, 1, 64), spec)
    layer.site = LinearSite(0, "ada_lin")
    assert block.data is not None
    block.data.labels_B[:] = torch.tensor([0, 3, 4, 4])
    with pytest.raises(CalibrationError, match=r"the samples lack classes 1, 2; give at least 4"):
        require_data(block, layer, "gptq")


@pytest.mark.parametrize("name", ["E2M1", "E3M0", "INT4", "DUAL4"])
def test_soft_rounding_starts_at_the_weight_and_ends_on_the_grid(name: str) -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(2))
    layer = Layer(LinearSite(0, "fc1"), weight, None)
    layer.weight = FakeQuantizer(QuantizerSpec(format=name))
    soft = SoftRounding(layer)
    assert torch.allclose(soft.soft(), weight, atol=1e-5)
    hard, near = soft.hard(), layer.nearest()
    assert (torch.isclose(hard, near, atol=1e-6) | (soft.gap_OI == 0)).float().mean() > 0.999
    soft.v_OI = torch.randn(16, 128, generator=torch.Generator().manual_seed(3)).requires_grad_()
    inner, outer = soft.slope(3.0)
    (by_torch,) = torch.autograd.grad(soft.h().sum(), soft.v_OI)
    assert torch.allclose(inner, by_torch, atol=1e-6)
    (by_torch,) = torch.autograd.grad(soft.penalty(3.0), soft.v_OI)
    assert torch.allclose(outer, by_torch, atol=1e-7)


def least_error(layer: Layer, block: Block) -> float:
    """Least output error over all roundings of one row of few weights."""
    soft, hessian = SoftRounding(layer), layer_moments(block, layer, "test").quantized_II
    picks = torch.tensor(list(itertools.product((0.0, 1.0), repeat=layer.weight_OI.shape[1])))
    change = soft.down_OI + soft.gap_OI * picks - layer.weight_OI
    return float(((change @ hessian) * change).sum(1).min())


@pytest.mark.parametrize("name", ["E2M1", "INT4"])
def test_rounding_steps_come_near_the_best_rounding(name: str) -> None:
    """8 weights have 256 roundings; all are tried. Inputs share a component, as after GELU."""
    found: dict[str, list[float]] = {"nearest": [], "adaround": [], "gptq": []}
    for seed in range(6):
        weight = torch.randn(1, 8, generator=torch.Generator().manual_seed(seed))
        x = torch.randn(16, 4, 8, generator=torch.Generator().manual_seed(seed)) + 2
        for method, values in found.items():
            block, layer = block_of(weight, x, QuantizerSpec(format=name, group=8))
            best = least_error(layer, block)
            if method != "nearest":
                make_step({"step": method}).apply(block)
            layer.finish()
            assert layer.rounded_OI is not None
            error = layer_moments(block, layer, "test").loss(layer.rounded_OI, weight)
            values.append(error / best)
    mean = {method: sum(values) / len(values) for method, values in found.items()}
    assert mean["adaround"] < 0.5 * mean["nearest"], mean
    assert mean["gptq"] < 0.5 * mean["nearest"], mean


def gptq_by_definition(weight_OI: Tensor, hessian_II: Tensor, quantizer: FakeQuantizer) -> Tensor:
    """Optimal brain quantization in index order: solve for the rest anew after each column."""
    scales = quantizer.scales(weight_OI)
    weight, rounded = weight_OI.double(), torch.zeros_like(weight_OI)
    for i in range(weight.shape[1]):
        padded = weight.float()
        rounded[:, i] = quantizer.apply(padded, scales)[:, i]
        inverse = torch.linalg.inv(hessian_II[i:, i:])
        error = (weight[:, i] - rounded[:, i]) / inverse[0, 0]
        weight[:, i:] -= error.unsqueeze(1) * inverse[0]
    return rounded


def test_gptq_is_the_published_update() -> None:
    x = correlated(8, 8, 32)
    weight = torch.randn(5, 32, generator=torch.Generator().manual_seed(4))
    for spec in (
        QuantizerSpec(format="E2M1", group=8),
        QuantizerSpec(format="INT4", group="row", asymmetric=True),
        QuantizerSpec(format="DUAL4", group=16),
        QuantizerSpec(format="INT4", group="tensor"),
    ):
        block, layer = block_of(weight, x, spec)
        hessian = layer_moments(block, layer, "test").quantized_II.double()
        hessian += 0.01 * hessian.diagonal().mean() * torch.eye(32)
        make_step({"step": "gptq", "chunk": 7}).apply(block)
        assert layer.rounded_OI is not None
        wanted = gptq_by_definition(weight, hessian, FakeQuantizer(spec))
        assert torch.isclose(layer.rounded_OI, wanted, atol=1e-5).float().mean() > 0.97
        again = FakeQuantizer(spec).apply(layer.rounded_OI, FakeQuantizer(spec).scales(weight))
        assert torch.allclose(again, layer.rounded_OI, atol=1e-5), "off the grid"


def test_gptq_options_lower_the_output_error() -> None:
    x = correlated(32, 8, 64)
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(5))
    spec = QuantizerSpec(format="E2M1", group=32)
    errors = []
    for settings in (None, {}, {"target": "output"}, {"target": "output", "order": "activation"}):
        block, layer = block_of(weight, x, spec, spec)
        if settings is not None:
            make_step({"step": "gptq", **settings}).apply(block)
        layer.finish()
        assert layer.rounded_OI is not None
        errors.append(layer_moments(block, layer, "test").loss(layer.rounded_OI, weight))
    assert errors[1] < 0.9 * errors[0]
    assert errors[2] < errors[1] and errors[3] < errors[1]


@pytest.mark.parametrize("objective", ["weight", "output"])
def test_clip_search_lowers_its_objective(objective: str) -> None:
    x = correlated(32, 8, 64)
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(6)) ** 3
    spec = QuantizerSpec(format="E2M1", group=16)
    block, layer = block_of(weight, x, spec, spec)
    moments = layer_moments(block, layer, "test")
    near = layer.nearest()
    make_step({"step": "learned-clip", "objective": objective, "high": 1.5}).apply(block)
    layer.finish()
    assert layer.rounded_OI is not None
    if objective == "output":
        assert moments.loss(layer.rounded_OI, weight) < 0.9 * moments.loss(near, weight)
        return
    before, after = (
        (r - weight).square().view(32, 4, 16).sum(-1) for r in (near, layer.rounded_OI)
    )
    assert (after <= before * (1 + 1e-5)).all() and (after < 0.99 * before).any()
    for factor in (0.7, 0.85, 1.25, 1.5):  # all are on the grid of 25 factors, or near one
        quantizer = FakeQuantizer(spec)
        tried = quantizer.apply(weight, quantizer.scales(weight, factor))
        assert (after <= (tried - weight).square().view(32, 4, 16).sum(-1) * 1.1).all()


def test_clip_factors_serve_the_rounding_that_follows() -> None:
    """GPTQ rounds on the grid with the searched scales, and changes of basis come too late then."""
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(7)) ** 3
    spec = QuantizerSpec(format="E2M1", group=16)
    block, layer = block_of(weight, correlated(16, 4, 32), spec)
    make_step({"step": "learned-clip"}).apply(block)
    scales = layer.weight_scales
    assert scales is not None and not torch.equal(
        scales.positive, FakeQuantizer(spec).scales(weight).positive
    )
    make_step({"step": "gptq"}).apply(block)
    assert layer.rounded_OI is not None
    again = FakeQuantizer(spec).apply(layer.rounded_OI, scales)
    assert torch.allclose(again, layer.rounded_OI, atol=1e-6)
    with pytest.raises(ValueError, match="channel factors must come before steps that round"):
        scale_channels(layer, torch.ones(32))
    nv = QuantizerSpec(format="E2M1", group=16, scale="e4m3")
    block, _ = block_of(weight, correlated(16, 4, 32), nv)
    with pytest.raises(ValueError, match="share one for the whole tensor"):
        make_step({"step": "learned-clip"}).apply(block)
    with pytest.raises(ValueError, match="no factor to try"):
        make_step({"step": "learned-clip", "low": 1.0, "high": 1.0})


def test_rtn_floor_and_symmetry() -> None:
    """The smallest scale is 1e-5, the largest magnitude maps to 7 and ties go to even."""
    spec = load_recipe("int4-rtn").layers["qkv"].input
    assert spec is not None and spec.floor == 1e-5 and spec.group == 128
    quantizer = FakeQuantizer(spec)
    x = torch.zeros(2, 128)
    x[0, :4] = torch.tensor([-14.0, 3.0, 5.0, 14.0])
    x[1, :3] = torch.tensor([2e-5, 0.9e-5, 0.4e-5])
    y = quantizer(x)
    assert y[0, :4].tolist() == [-14.0, 4.0, 4.0, 14.0]
    assert torch.allclose(y[1, :3], torch.tensor([2e-5, 1e-5, 0.0]))


@pytest.mark.parametrize(
    "name",
    ["int4-rtn", "int6-rtn", "int8-rtn", "adaround-fp4", "fp4dit-w4a6", "fp4dit-w4a4",
     "gptq-fp4", "gptq-int4", "fp4-clip", "smoothquant-w4a4", "smoothquant-w6a6"],
)  # fmt: skip
def test_recipes_build_and_generate(
    name: str, digits: LoadedModel, calibration: CalibrationSet
) -> None:
    recipe = load_recipe(name)
    steps = tuple(
        dict(s, **({"steps": 5} if s["step"] == "adaround" else {})) for s in recipe.steps
    )
    recipe = recipe.model_copy(update={"steps": steps})
    assert recipe.title and recipe.source
    assert {n: c != "float" for n, c in recipe.coverage().items()} == {
        n: n in ("qkv", "proj", "fc1", "fc2") for n in recipe.coverage()
    }
    quantized = quantize_var(digits.var, recipe, calibration)
    with quantized.installed(digits.var) as var:
        result = generate(var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    plain = generate(digits.var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    assert result.logits and plain.logits
    error = (result.logits[0] - plain.logits[0]).norm() / plain.logits[0].norm()
    assert 1e-5 < error < (0.5 if "4" in name else 0.2)
