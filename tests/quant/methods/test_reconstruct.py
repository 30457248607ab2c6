# SPDX-License-Identifier: Apache-2.0
"""Step `reconstruct`, compared with the released Shift-and-Sum code and by itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import (
    Block,
    FakeQuantizer,
    Layer,
    QuantizedVar,
    Recipe,
    load_recipe,
    quantize_var,
)
from lutvar.quant.methods.attention.registry import make_attention
from lutvar.quant.methods.attention.shift_and_sum import ShiftAndSumAttention
from lutvar.quant.methods.calibration.samples import data_by_block
from lutvar.quant.methods.layers.sub_block import sub_blocks
from lutvar.quant.methods.recipes.build import iter_linears, quantize_blocks
from lutvar.quant.methods.resumable import Parts, quantize_to_file
from lutvar.quant.methods.steps.reconstruct import Reconstruct
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.sites import FloatAttention, LinearSite, SiteName
from support.quant.official_cases import (
    RECONSTRUCT,
    RECONSTRUCT_SEED,
    VAR,
    case_models,
    exact_recipe,
    in_float64,
    samples,
)

DATA = Path(__file__).parent / "data" / "shift_and_sum.npz"


@pytest.fixture(scope="module")
def models() -> tuple[Var, Vqvae]:
    return case_models()


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(DATA) as file:
        return dict(file)


def double_block(models: tuple[Var, Vqvae], index: int) -> Block:
    """A block in float64 with 6-bit layers whose scales are those of float32 weights.

    Rows are in the released order: both halves of one image, then of the next.
    """
    var, vqvae = models
    specs = exact_recipe(6).layers
    layers = {}
    for site, weight_OI, bias_O in iter_linears(var, index):
        spec = specs[site.name]
        assert spec.weight is not None and spec.input is not None
        quantizer, weight_OI = FakeQuantizer(spec.weight), weight_OI.detach()
        layers[site.name] = Layer(
            site, weight_OI.double(), None if bias_O is None else bias_O.detach().double(),
            activation=FakeQuantizer(spec.input), weight=quantizer,
            weight_scales=quantizer.scales(weight_OI).each(torch.Tensor.double),
        )  # fmt: skip
    with in_float64(QuantizedVar(exact_recipe(6)), var, vqvae):
        calibration = samples(var, vqvae)
        data = list(data_by_block(var, calibration))[index]
    rows = torch.tensor([0, 2, 1, 3])  # token embeddings are those of the images, without halves
    inputs = {name: x[:2] if name == "word_embed" else x[rows] for name, x in data.inputs.items()}
    module = var.blocks[index] if index < VAR.depth else None
    return Block(index, layers, module, replace(data, inputs=inputs))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("index", "names"), [(0, ("qkv", "proj")), (0, ("fc1", "fc2")), (0, ("ada_lin",)),
                         (2, ("head",)), (2, ("word_embed",))],
)  # fmt: skip
def test_reconstruction_of_the_released_code(
    index: int,
    names: tuple[SiteName, ...],
    models: tuple[Var, Vqvae],
    expected: dict[str, np.ndarray],
) -> None:
    """A few steps of Adam round every weight of a sub-block as the released code does."""
    var, vqvae = models
    block = double_block(models, index)
    attention = make_attention(
        {**(exact_recipe(6).attention or {}), "theta": float(expected["w6a6.theta"])}, var, None
    )
    assert isinstance(attention, ShiftAndSumAttention)
    (part,) = sub_blocks(block, names)
    with in_float64(QuantizedVar(exact_recipe(6)), var, vqvae):
        for parameter in var.parameters():
            parameter.requires_grad_(False)
        torch.manual_seed(RECONSTRUCT_SEED)
        Reconstruct(step="reconstruct", **RECONSTRUCT).learn(part, attention, None)
    for name in names:
        layer = block.layers[name]
        assert layer.rounded_OI is not None and layer.weight is not None
        assert layer.weight_scales is not None
        down_OI, up_OI = layer.weight.neighbours(layer.weight_OI, layer.weight_scales)
        free_OI, nearest_OI = up_OI > down_OI, layer.nearest()
        went_up = (layer.rounded_OI > (down_OI + up_OI) / 2)[::8]
        packed = torch.from_numpy(np.unpackbits(expected[f"up.{name}"])).bool()
        wanted = packed[: went_up.numel()].view(went_up.shape)
        free = free_OI[::8]
        # The ties of proj's input enter gradients, and Adam makes steps of the smallest of them.
        apart = float((went_up != wanted)[free].float().mean())
        assert apart <= (0.002 if "proj" in names else 0.0)
        changed = float((layer.rounded_OI != nearest_OI)[free_OI].float().mean())
        assert 0.01 < changed < 0.6, "too few decisions changed to compare them"


def short(bits: int, steps: int) -> Recipe:
    """The shipped recipe with a short reconstruction of few samples."""
    recipe = load_recipe(f"shift-and-sum-w{bits}a{bits}-exact")
    calibration = recipe.calibration.model_copy(update={"samples": 2, "resample": None})
    step = {"step": "reconstruct", "steps": steps, "rate": 0.03, "penalty": 1e-5}
    attention = {**(recipe.attention or {}), "alpha": 0.03}
    return recipe.model_copy(
        update={"steps": (step,), "calibration": calibration, "attention": attention}
    )


def test_recipe_reconstructs_every_linear(models: tuple[Var, Vqvae]) -> None:
    """All sub-blocks, and the threshold twice: on the weights to nearest and on these."""
    var, vqvae = models
    calibration = samples(var, vqvae)
    quantized = quantize_var(var, short(4, 6), calibration)
    assert isinstance(quantized.attention, ShiftAndSumAttention)
    assert 0 < quantized.attention.theta < 1
    names = {site.name for site in quantized.layers}
    assert names == {*exact_recipe(4).layers}
    for layer in quantized.layers.values():
        (note,) = layer.notes
        assert layer.rounded_OI is not None and note.startswith("reconstruct: batch error")
        before, after = map(float, note.removeprefix("reconstruct: batch error ").split(" to "))
        assert after < 3 * before
        assert layer.weight is not None and layer.weight_scales is not None
        apart = (layer.rounded_OI - layer.weight.apply(layer.weight_OI, layer.weight_scales)).abs()
        assert 0 < float((apart > 0).float().mean()) < 0.5, f"{layer.site}: nothing was learned"


def test_reconstruction_lowers_the_error_of_the_sub_block(models: tuple[Var, Vqvae]) -> None:
    block = double_block(models, VAR.depth)
    (part,) = sub_blocks(block, ("head",))
    var, vqvae = models
    layers = {layer.site: layer for layer in part.layers}
    for layer in part.layers:
        layer.activation = None

    def error() -> float:
        """Of all rows, inputs in float."""

        def linear(
            site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
        ) -> Tensor:
            return torch.nn.functional.linear(x_BLC, layers[site].current(), bias_O)

        pairs = zip(part.outputs(linear, FloatAttention()), part.float_outputs(), strict=True)
        return sum(float((a - b).square().sum(-1).mean()) for a, b in pairs)

    with in_float64(QuantizedVar(exact_recipe(6)), var, vqvae), torch.no_grad():
        before = error()
        step = Reconstruct(step="reconstruct", steps=80, rate=0.05, penalty=0.01)
        step.learn(part, None, torch.Generator().manual_seed(0))
        after = error()
        assert after < 0.8 * before


def test_attention_that_passes_no_gradients_is_refused(models: tuple[Var, Vqvae]) -> None:
    var, vqvae = models
    recipe = short(4, 1).model_copy(update={"attention": {"kind": "log-softmax", "samples": 1}})
    with pytest.raises(ValueError, match="log-softmax passes no gradients on"):
        quantize_var(var, recipe, samples(var, vqvae))


def test_file_of_a_recipe_that_draws_tokens(models: tuple[Var, Vqvae], tmp_path: Path) -> None:
    """Kept calibration samples know their sampling and tokenizer again."""
    var, vqvae = models
    path = tmp_path / "q.safetensors"
    quantize_to_file(var, vqvae, short(6, 1), path, sampling=(1.5, 0, 0.96))
    loaded = QuantizedVar.load(path, var)
    assert isinstance(loaded.attention, ShiftAndSumAttention) and 0 < loaded.attention.theta < 1
    parts = Parts(tmp_path / "p.safetensors", short(6, 1), "model")
    with parts.opened():
        parts.keep_samples(samples(var, vqvae))
        kept = parts.samples
    assert kept is not None
    assert (kept.cfg, kept.top_k, kept.top_p, kept.vqvae) == (1.5, 0, 0.96, None)


def test_blocks_that_are_done_are_not_learned_again(models: tuple[Var, Vqvae]) -> None:
    """A block alone gets the rounding that it gets among all."""
    var, vqvae = models
    recipe, calibration = short(4, 2), samples(var, vqvae)
    whole = {i: layers for i, layers in quantize_blocks(var, recipe, calibration) if layers}
    alone = dict(quantize_blocks(var, recipe, calibration, skip={0, 2}))
    assert alone[0] is None and alone[2] is None and alone[1] is not None
    for name, layer in alone[1].items():
        assert layer.rounded_OI is not None
        assert torch.equal(layer.rounded_OI, whole[1][name].rounded_OI)  # type: ignore[arg-type]
