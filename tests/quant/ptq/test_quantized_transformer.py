# SPDX-License-Identifier: Apache-2.0
"""Quantized transformers: what they contain, and models that are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lutvar.contract.quant_preset import load_quant
from lutvar.contract.shape import TransformerShape
from lutvar.quant.models import load_model
from lutvar.quant.ptq import (
    QuantizationError,
    class_vectors,
    quantize_linear,
    quantize_transformer,
)
from lutvar.quant.ptq import transformer as module
from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.sites import LinearSite

SMALL = VarConfig(
    depth=2, width=128, heads=2, patch_nums=(1, 2), num_classes=3, vocab=40, z_channels=8
)


def small(seed: int = 0, **changes: object) -> Var:
    torch.manual_seed(seed)
    return Var(replace(SMALL, **changes)).eval()  # type: ignore[arg-type]


def test_shapes() -> None:
    shape = TransformerShape.official("d30")
    assert (shape.width, shape.depth, shape.heads, shape.hidden) == (1920, 30, 30, 7680)
    assert (shape.vocab, shape.tokens) == (4096, 680)
    assert SMALL.shape == TransformerShape(128, 2, 2, 512, 40, (1, 2))


def test_class_vectors_and_kappa() -> None:
    var = small()
    with torch.no_grad():
        var.blocks[1].attn.scale_mul_1H11[0, 1] = 9.0  # clamped to ln 100
    model = quantize_transformer(var, load_quant("fp4"))
    four = np.float16(4 / math.log(2))
    np.testing.assert_array_equal(
        model.kappa, [[four, four], [four, np.float16(100 / math.log(2))]]
    )
    with torch.no_grad():
        cond = var.condition(torch.tensor([2]))
    found = model.class_vectors(2)
    assert found.blocks.shape == (2, 6, 128) and found.head.shape == (2, 128)
    mod = cond.blocks[1]
    expected = {
        "scale1": mod.scale_attn + 1, "shift1": mod.shift_attn, "gate1": mod.gate_attn,
        "scale2": mod.scale_ffn + 1, "shift2": mod.shift_ffn, "gate2": mod.gate_ffn,
    }  # fmt: skip
    for name, value in expected.items():
        np.testing.assert_array_equal(found.block(1, name), value.half().numpy().reshape(-1))
    np.testing.assert_array_equal(found.head[1], cond.head_shift_B1C.half().numpy().reshape(-1))
    assert model.null_label == 3
    with pytest.raises(ValueError, match="class 4: the model has 0 to 3"):
        model.class_vectors(4)


def test_head_is_treated_as_fc1_is() -> None:
    var, config = small(), load_quant("fp6")
    model = quantize_transformer(var, config)
    assert str(model.head.site) == "head" and model.head.rotate
    assert model.head.activation_format.name == "E2M3" and model.head.outputs == 40
    as_fc1 = quantize_linear(LinearSite(0, "fc1"), var.head.weight, var.head.bias, config)
    np.testing.assert_array_equal(model.head.codes, as_fc1.codes)
    assert list(model.layers)[-1] == LinearSite(2, "head") and len(model.layers) == 9
    assert model.layer(1, "fc2") is model.layers[LinearSite(1, "fc2")]


def test_channel_factors_go_into_vectors_and_weights() -> None:
    var, config = small(), load_quant("fp4")
    rng = np.random.default_rng(0)
    sites = [LinearSite(0, "qkv"), LinearSite(1, "fc1"), LinearSite(2, "head")]
    factors = {site: np.exp(rng.standard_normal(128)).astype(np.float32) for site in sites}
    plain, model = (quantize_transformer(var, config, factors=f) for f in (None, factors))
    s = {str(site): f.astype(np.float64) for site, f in factors.items()}
    pairs = [
        (lambda v: v.block(0, "scale1"), "block0.qkv"),
        (lambda v: v.block(1, "shift2"), "block1.fc1"),
        (lambda v: v.head[0], "head"),
        (lambda v: v.head[1], "head"),
    ]
    for pick, name in pairs:
        found, before = pick(model.class_vectors(1)), pick(plain.class_vectors(1))
        np.testing.assert_allclose(found, before * s[name], rtol=2**-9, atol=2**-20)
    gates = (v.class_vectors(1).block(0, "gate1") for v in (model, plain))
    np.testing.assert_array_equal(*gates)
    weight = var.head.weight.detach() / torch.from_numpy(factors[sites[2]])
    expected = quantize_linear(sites[2], weight, var.head.bias, config)
    np.testing.assert_array_equal(model.head.codes, expected.codes)
    np.testing.assert_array_equal(model.head.scales, expected.scales)
    with pytest.raises(QuantizationError, match=r"block0\.proj: channel factors can be folded at"):
        quantize_transformer(var, config, factors={LinearSite(0, "proj"): factors[sites[0]]})
    with pytest.raises(QuantizationError, match="finite numbers above 0"):
        quantize_transformer(var, config, factors={sites[0]: np.zeros(128, np.float32)})


def test_vectors_of_many_classes_are_computed_when_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few = quantize_transformer(small(), load_quant("fp4"))
    assert sorted(few.vectors) == [0, 1, 2, 3]
    monkeypatch.setattr(module, "MAX_TABLE_CLASSES", 3)
    many = quantize_transformer(small(), load_quant("fp4"))
    assert not many.vectors
    np.testing.assert_array_equal(many.class_vectors(1).blocks, few.class_vectors(1).blocks)
    assert list(many.vectors) == [1]
    with pytest.raises(ValueError, match="class 4: the model has 0 to 3"):
        many.class_vectors(4)


@pytest.mark.parametrize("model", ["digits", "cifar10"])
def test_vectors_computed_together_are_those_of_one_by_one(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, the weights of AdaLN being read once for all classes."""
    monkeypatch.setattr(module, "MAX_TABLE_CLASSES", 0)
    monkeypatch.setattr(class_vectors, "_TOGETHER", 4)
    made = quantize_transformer(load_model(model).var, load_quant("fp4"), progress=False)
    known = made.class_vectors(7)
    labels = [*range(made.null_label, -1, -1), 3]
    assert next(made.each_class([7])) is known
    for label, vectors in zip(labels, made.each_class(labels), strict=True):
        alone = made.source(label)
        np.testing.assert_array_equal(vectors.blocks, alone.blocks)
        np.testing.assert_array_equal(vectors.head, alone.head)
    assert list(made.vectors) == [7], "none of the others is kept"
    with pytest.raises(ValueError, match=rf"class {made.null_label + 1}: the model has 0 to"):
        next(made.each_class([0, made.null_label + 1]))


def test_models_that_the_attention_cannot_run() -> None:
    config = load_quant("fp4")
    with pytest.raises(QuantizationError, match="attn_l2_norm is off"):
        quantize_transformer(small(attn_l2_norm=False), config)
    with pytest.raises(QuantizationError, match=r"heads of 32 columns .* needs 64, here 2 heads"):
        quantize_transformer(small(heads=4), config)
    model = load_model("digits")
    whole = quantize_transformer(model.var, config)
    layers = dict(whole.layers)
    layers.pop(LinearSite(4, "head"))
    with pytest.raises(QuantizationError, match="head: weights are missing"):
        replace(whole, layers=layers)
