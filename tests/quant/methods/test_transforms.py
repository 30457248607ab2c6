# SPDX-License-Identifier: Apache-2.0
"""Rotations, the low-rank branch, and the steps that learn by a block's output."""

from __future__ import annotations

import pytest
import torch

from lutvar.quant.methods import (
    Block,
    FakeQuantizer,
    Layer,
    QuantizerSpec,
    Recipe,
    calibration_set,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.calibration.moments import layer_moments
from lutvar.quant.methods.calibration.samples import CalibrationSet, data_by_block
from lutvar.quant.methods.layers.hadamards import hadamard_factors, paley
from lutvar.quant.methods.layers.layer import BlockData
from lutvar.quant.methods.layers.learnable import computed_by, straight_apply
from lutvar.quant.methods.quantizers.fake import Scales
from lutvar.quant.methods.recipes.build import iter_linears
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.svdquant import largest_part
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import generate
from lutvar.quant.var.sites import SITE_NAMES, LinearSite

NAMES = SITE_NAMES


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


@pytest.fixture(scope="module")
def calibration(digits: LoadedModel) -> CalibrationSet:
    return calibration_set(digits.var, digits.vqvae, 16, seed=0)


@pytest.fixture(scope="module")
def data(digits: LoadedModel, calibration: CalibrationSet) -> BlockData:
    return next(iter(data_by_block(digits.var, calibration)))


def first_block(digits: LoadedModel, data: BlockData, recipe: Recipe) -> Block:
    layers = {}
    for site, weight, bias in iter_linears(digits.var, 0):
        spec = recipe.layers.get(site.name)
        if spec is not None and spec.weight is not None and spec.input is not None:
            assert bias is not None
            layers[site.name] = Layer(
                site, weight.detach().float(), bias.detach().float(),
                activation=FakeQuantizer(spec.input), weight=FakeQuantizer(spec.weight),
            )  # fmt: skip
    module = digits.var.blocks[0]
    return Block(0, layers, module, data)  # type: ignore[arg-type]


def branch_error(block: Block, half: str) -> float:
    """Mean squared error of attention or FFN behind its gate, by running the layers."""
    data, module = block.data, block.module
    assert data is not None and data.modulation is not None and module is not None
    x = data.inputs["qkv" if half == "attention" else "fc1"]
    gate = data.modulation.gate_attn if half == "attention" else data.modulation.gate_ffn

    def output() -> torch.Tensor:
        y: torch.Tensor = module.attn(x, data.mask_11LL) if half == "attention" else module.ffn(x)
        return y * gate

    with torch.no_grad():
        with computed_by(module, lambda name, x, w, b: block.layers[name](x, 0)):
            found = output()
        return float((found - output()).square().mean())


@pytest.mark.parametrize("order", [12, 20, 24, 28, 36, 60])
def test_paley_matrices_are_hadamard(order: int) -> None:
    matrix = paley(order)
    assert matrix is not None and set(matrix.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(matrix @ matrix.mT, order * torch.eye(order, dtype=torch.float64))


def test_every_width_of_var_has_a_full_rotation() -> None:
    widths = [64 * d for d in (16, 20, 24, 30, 36)]
    for width in (128, 256, *widths, *(4 * w for w in widths)):
        a, b = hadamard_factors(width)
        assert len(a) * len(b) == width and max(len(a), len(b)) <= 4 * width**0.5
        for matrix in (a, b):
            size = len(matrix)
            assert torch.allclose(matrix @ matrix.mT, torch.eye(size, dtype=torch.float64))
            assert torch.allclose(matrix.abs() * size**0.5, torch.ones(1, dtype=torch.float64))
    with pytest.raises(ValueError, match="no Hadamard matrix for 92 channels"):
        hadamard_factors(92)


@pytest.mark.parametrize("sites", [("qkv", "fc1", "fc2"), NAMES])
def test_rotations_leave_the_float_model(
    sites: tuple[str, ...], digits: LoadedModel, calibration: CalibrationSet
) -> None:
    steps = [{"step": "hadamard", "size": "full", "sites": sites}]
    steps.insert(0, {"step": "head-rotation"})
    recipe = Recipe(name="r", layers={n: {} for n in NAMES}, steps=tuple(steps))
    quantized = quantize_var(digits.var, recipe)
    plain = generate(digits.var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    with quantized.installed(digits.var) as var:
        same = generate(var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    assert plain.logits and same.logits
    for a, b in zip(plain.logits, same.logits, strict=True):
        assert torch.allclose(a, b, atol=2e-3)


def test_head_rotation_hands_on_the_input_it_makes(digits: LoadedModel, data: BlockData) -> None:
    block = first_block(digits, data, load_recipe("quarot-w4a4"))
    qkv, proj = block.layers["qkv"], block.layers["proj"]
    wanted = proj.weight_OI @ data.inputs["proj"][0].mT
    before = qkv.weight_OI.clone()
    make_step({"step": "head-rotation"}).apply(block)
    assert block.data is not None and block.data is not data
    assert torch.equal(qkv.weight_OI[:256], before[:256])
    assert not torch.allclose(qkv.weight_OI[256:], before[256:], atol=1e-2)
    assert torch.allclose(proj.weight_OI @ block.data.inputs["proj"][0].mT, wanted, atol=1e-4)
    make_step({"step": "hadamard", "sites": ["proj"]}).apply(block)
    with pytest.raises(ValueError, match="before steps that change proj's input"):
        make_step({"step": "head-rotation"}).apply(block)
    del block.layers["qkv"]
    with pytest.raises(ValueError, match="block 0: the recipe does not name qkv"):
        make_step({"step": "head-rotation"}).apply(block)


def test_largest_part_is_the_truncated_svd() -> None:
    for shape in ((24, 60), (60, 24)):
        weight = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 0.01
        down, up = largest_part(weight, 5)
        assert down.shape == (5, shape[1]) and up.shape == (shape[0], 5)
        assert torch.equal(down, down.half().float()) and torch.equal(up, up.half().float())
        u, s, v = torch.linalg.svd(weight)
        wanted = (u[:, :5] * s[:5]) @ v[:5]
        assert torch.allclose(up @ down, wanted, atol=2e-3 * float(s[0]))


def test_low_rank_branch_lowers_the_output_error(digits: LoadedModel, data: BlockData) -> None:
    errors = []
    for iterations in (0, 1, 10):
        block = first_block(digits, data, load_recipe("svdquant-w4a4"))
        layer, x = block.layers["fc1"], data.inputs["fc1"]
        whole = layer.weight_OI
        if iterations:
            settings = {"step": "svdquant", "iterations": iterations, "sites": ["fc1"]}
            make_step(settings).apply(block)
            assert layer.low_rank is not None
            down, up = layer.low_rank
            assert torch.allclose(up @ down + layer.weight_OI, whole, atol=1e-5)
        layer.finish()
        exact = torch.nn.functional.linear(x, whole, layer.bias_O)
        errors.append(float((layer(x, 0) - exact).square().mean()))
    assert errors[1] < 0.8 * errors[0] and errors[2] <= errors[1] * (1 + 1e-6)
    with pytest.raises(ValueError, match="a rotation must come before steps that round"):
        make_step({"step": "hadamard", "sites": ["fc1"]}).apply(block)
    with pytest.raises(ValueError, match=r"rank 128 of a weight of \(512, 128\); it must be below"):
        make_step({"step": "svdquant", "rank": 128, "sites": ["fc1"]}).apply(
            first_block(digits, data, load_recipe("svdquant-w4a4"))
        )


@pytest.mark.parametrize(
    "spec",
    [QuantizerSpec(format="E2M1", group=16), QuantizerSpec(format="DUAL4", group=16),
     QuantizerSpec(format="INT4", group=16, asymmetric=True),
     QuantizerSpec(format="INT4", group=16, by_sign=True)],
    ids=["E2M1", "DUAL4", "asymmetric", "by-sign"],
)  # fmt: skip
def test_straight_apply_has_the_value_and_the_gradient_of_clipping(spec: QuantizerSpec) -> None:
    x = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer = FakeQuantizer(spec)
    factor = torch.full((6, 2, 1), 0.6, requires_grad=True)
    scales = quantizer.scales(x.detach(), factor)
    y = straight_apply(quantizer, x, scales)
    fixed = scales.each(torch.Tensor.detach)
    assert torch.allclose(y, quantizer.apply(x.detach(), fixed), atol=1e-5)
    of_x, of_factor = torch.autograd.grad(y.sum(), (x, factor), retain_graph=True)
    assert set(of_x.unique().tolist()) == {0.0, 1.0}
    # A value beyond the end follows the end, which is proportional to the factor.
    beyond = of_x == 0
    (end,) = torch.autograd.grad((y * beyond).sum(), factor, retain_graph=True)
    assert torch.allclose(end * 0.6, quantizer.blocks(y * beyond).sum(-1, keepdim=True), atol=0.3)
    # The rest: rounding error in steps, times the step's own dependence on the factor.
    (inner,) = torch.autograd.grad((y * ~beyond).sum(), factor)
    wanted = quantizer.blocks((y - x) * ~beyond).sum(-1, keepdim=True) / 0.6
    assert torch.allclose(inner, wanted, atol=1e-4)
    assert isinstance(scales, Scales) and torch.isfinite(of_factor).all()


@pytest.mark.parametrize("half", ["attention", "ffn"])
def test_brecq_lowers_the_error_of_its_half(
    half: str, digits: LoadedModel, data: BlockData
) -> None:
    errors, rounded = [], []
    for steps in (0, 40, 40):
        block = first_block(digits, data, load_recipe("brecq-w4a4"))
        if steps:
            make_step({"step": "brecq", "steps": steps}).apply(block)
        for layer in block.layers.values():
            near = layer.nearest()
            layer.finish()
            assert layer.weight is not None and layer.rounded_OI is not None
            grid = layer.weight.apply(layer.rounded_OI, layer.weight.scales(layer.weight_OI))
            assert torch.allclose(grid, layer.rounded_OI, atol=1e-5), "off the grid"
            assert (torch.equal(near, layer.rounded_OI)) == (steps == 0)
        errors.append(branch_error(block, half))
        rounded.append(block.layers["fc1" if half == "ffn" else "qkv"].current())
    assert errors[1] < 0.96 * errors[0]
    assert torch.equal(rounded[1], rounded[2]), "not deterministic"


def test_brecq_keeps_what_it_cannot_better(digits: LoadedModel, data: BlockData) -> None:
    block = first_block(digits, data, load_recipe("brecq-w6a6"))
    make_step({"step": "brecq", "steps": 1, "rate": 50.0}).apply(block)
    layer = block.layers["fc1"]
    assert layer.rounded_OI is not None and torch.equal(layer.rounded_OI, layer.nearest())


@pytest.mark.parametrize("part", ["clipping", "transform", "both"])
def test_omniquant_lowers_the_error_of_the_block(
    part: str, digits: LoadedModel, data: BlockData
) -> None:
    errors = []
    for steps in (0, 25):
        block = first_block(digits, data, load_recipe("omniquant-w4a4"))
        if steps:
            chosen = {} if part == "both" else {p: p == part for p in ("clipping", "transform")}
            make_step({"step": "omniquant", "steps": steps, "clip_rate": 0.05, **chosen}).apply(
                block
            )
            expected = 0 if part == "clipping" else 2
            assert [len(block.layers[n].operations) for n in NAMES] == [expected, 0, expected, 0]
            assert all(op.free for op in block.layers["qkv"].operations)  # type: ignore[attr-defined]
        for layer in block.layers.values():
            layer.finish()
        errors.append(branch_error(block, "attention") + branch_error(block, "ffn"))
    assert errors[1] < 0.985 * errors[0]


def test_omniquant_leaves_the_float_function(digits: LoadedModel, data: BlockData) -> None:
    block = first_block(digits, data, load_recipe("omniquant-w4a4"))
    make_step({"step": "omniquant", "steps": 3}).apply(block)
    layer, x = block.layers["fc1"], data.inputs["fc1"]
    assert digits.var.blocks[0].ffn is not None
    wanted = digits.var.blocks[0].ffn.fc1(x)  # type: ignore[union-attr,operator]
    assert len(layer.operations) == 2
    found = torch.nn.functional.linear(layer.prepared(x), layer.weight_OI, layer.bias_O)
    assert torch.allclose(found, wanted, atol=1e-4)
    with pytest.raises(ValueError, match="block 0 has nothing to learn"):
        settings = {"step": "omniquant", "clipping": False, "sites": ["proj"]}
        make_step(settings).apply(first_block(digits, data, load_recipe("omniquant-w4a4")))


@pytest.mark.parametrize(
    "name",
    ["brecq-w4a4", "brecq-w6a6", "omniquant-w4a4", "omniquant-w6a6", "quarot-w4a4",
     "svdquant-w4a4", "svdquant-fp4"],
)  # fmt: skip
def test_recipes_build_and_generate(
    name: str, digits: LoadedModel, calibration: CalibrationSet
) -> None:
    recipe = load_recipe(name)
    short = {"brecq": {"steps": 3}, "omniquant": {"steps": 3}, "svdquant": {"iterations": 2}}
    steps = tuple({**s, **short.get(s["step"], {})} for s in recipe.steps)
    recipe = recipe.model_copy(update={"steps": steps})
    assert {n for n, c in recipe.coverage().items() if c != "float"} == set(NAMES)
    quantized = quantize_var(digits.var, recipe, calibration)
    with quantized.installed(digits.var) as var:
        result = generate(var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    plain = generate(digits.var, digits.vqvae, [3, 4], seed=1, keep_logits=True)
    assert result.logits and plain.logits
    error = (result.logits[0] - plain.logits[0]).norm() / plain.logits[0].norm()
    assert 1e-5 < error < (0.5 if "4" in name else 0.2)


def test_moments_of_linears_without_all_scales(
    digits: LoadedModel, calibration: CalibrationSet
) -> None:
    """AdaLN, head and token embedding can be rounded too; their inputs are shaped differently."""
    names = ("ada_lin", "head", "head_ada", "word_embed")
    weight = {"format": "INT6", "group": "row"}
    layers = {n: {"weight": weight, "input": weight} for n in names}
    recipe = Recipe.model_validate({"name": "r", "layers": layers, "steps": [{"step": "gptq"}]})
    quantized = quantize_var(digits.var, recipe, calibration)
    for name in names:
        site = next(s for s in quantized.layers if s.name == name)
        assert not torch.equal(quantized.layers[site].current(), quantized.layers[site].nearest())
    *_, outside = data_by_block(digits.var, calibration)
    layer = quantized.layers[LinearSite(digits.var.config.depth, "word_embed")]
    block = Block(digits.var.config.depth, {"word_embed": layer}, None, outside)
    moments = layer_moments(block, layer, "test")
    flat = outside.inputs["word_embed"].flatten(0, 1)
    assert torch.allclose(moments.plain_II, flat.mT @ flat / len(flat), atol=1e-4)
