# SPDX-License-Identifier: Apache-2.0
"""Configuration rules, the linear backend, hooks, and sampling."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor

from lutvar.quant.var import (
    ConfigError,
    FloatLinear,
    LinearSite,
    Var,
    VarConfig,
    Vqvae,
    VqvaeConfig,
    generate,
)
from lutvar.quant.var.sampling import draw, filter_logits
from support.quant.var_cases import CASES
from support.quant.var_weights import fill

CASE = CASES[0]
GOOD = CASE.var.to_dict()
GOOD_VQ = CASE.vqvae.to_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 192}, r"width = 192: must be a multiple of 128 .* nearest is 256"),
        ({"heads": 3}, r"heads = 3: must divide width = 128"),
        ({"depth": 0}, r"depth = 0: must be a whole number of at least 1"),
        ({"depth": True}, r"depth = True"),
        ({"patch_nums": [1]}, r"at least 2 scales"),
        ({"patch_nums": [1, 3, 2]}, r"must grow"),
        ({"patch_nums": 4}, r"list of whole numbers"),
        ({"mlp_ratio": 0.3}, r"38 hidden channels"),
        ({"shared_adaln": 1}, r"true or false"),
        ({"cond_drop_rate": 2}, r"number from 0.0 to 1.0"),
        ({"witdh": 1}, r"unknown setting\(s\) 'witdh'; valid ones are .*width"),
    ],
)
def test_var_config_rules(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VarConfig.from_dict(GOOD | change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ch": 40}, r"40 channels are not a multiple of 32"),
        ({"in_channels": 4}, r"in_channels = 4: must be 1 or 3"),
        ({"quant_resi": -0.5}, r"quant_resi = -0.5"),
        ({"chs": 1}, r"unknown setting\(s\) 'chs'"),
    ],
)
def test_vqvae_config_rules(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        VqvaeConfig.from_dict(GOOD_VQ | change)


def test_config_round_trip() -> None:
    for name in ("d16", "d36-s"):
        config = VarConfig.official(name)
        assert VarConfig.from_dict(json.loads(config.to_json())) == config
    assert VqvaeConfig.from_dict(VqvaeConfig.official().to_dict()) == VqvaeConfig.official()
    with pytest.raises(ConfigError, match="d20"):
        VarConfig.official("d17")
    with pytest.raises(ConfigError, match=r"missing setting\(s\) depth"):
        VarConfig.from_dict({k: v for k, v in GOOD.items() if k != "depth"})


@pytest.fixture(scope="module")
def pair() -> tuple[Var, Vqvae]:
    var, vqvae = Var(CASE.var).eval(), Vqvae(CASE.vqvae).eval()
    fill(var)
    fill(vqvae)
    return var, vqvae


class Recorder(FloatLinear):
    """Remembers what it was asked; optionally scales one site's output."""

    def __init__(self, scaled: LinearSite | None = None) -> None:
        self.calls: list[tuple[LinearSite, tuple[int, ...], tuple[int, ...]]] = []
        self.biases: dict[LinearSite, Tensor] = {}
        self.scaled = scaled

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        self.calls.append((site, tuple(x_BLC.shape), tuple(weight_OI.shape)))
        assert bias_O is not None
        self.biases[site] = bias_O
        y = super().__call__(site, x_BLC, weight_OI, bias_O)
        return y * 2 if site == self.scaled else y


def test_backend_sees_every_block_linear(pair: tuple[Var, Vqvae]) -> None:
    var, vqvae = copy.deepcopy(pair[0]), pair[1]
    recorder = Recorder()
    var.linear_backend = recorder
    steps: list[int] = []
    var.step_hook = steps.append
    done: list[tuple[int, int]] = []
    generate(var, vqvae, [1, 2, 3], 0, progress=lambda i, n: done.append((i, n)))
    sides = CASE.var.patch_nums
    assert steps == [0, 1, 2, 3] and done == [(1, 4), (2, 4), (3, 4), (4, 4)]
    order = [("qkv", 128, 384), ("proj", 128, 128), ("fc1", 128, 512), ("fc2", 512, 128)]
    assert recorder.calls == [
        (LinearSite(block, name), (6, side * side, i), (o, i))  # type: ignore[arg-type]
        for side in sides
        for block in range(2)
        for name, i, o in order
    ]
    for site, weight_OI, bias_O in var.iter_sites():
        assert torch.equal(recorder.biases[site], bias_O) and len(weight_OI) == len(bias_O)
    assert [site for site, _, _ in var.iter_sites()] == [call[0] for call in recorder.calls[:8]]
    qkv_bias = recorder.biases[LinearSite(1, "qkv")]
    assert (qkv_bias[128:256] == 0).all() and (qkv_bias[:128] != 0).any()
    # The copy has its own backend; the original still computes in float.
    assert isinstance(pair[0].linear_backend, FloatLinear)
    assert not isinstance(pair[0].linear_backend, Recorder)


@pytest.mark.parametrize("name", ["qkv", "proj", "fc1", "fc2"])
def test_backend_result_is_used(pair: tuple[Var, Vqvae], name: Any) -> None:
    var, vqvae = copy.deepcopy(pair[0]), pair[1]
    plain = generate(var, vqvae, [1], 0, keep_logits=True).logits
    var.linear_backend = Recorder(scaled=LinearSite(1, name))
    changed = generate(var, vqvae, [1], 0, keep_logits=True).logits
    assert plain is not None and changed is not None
    assert not torch.allclose(plain[0], changed[0], atol=1e-3)


def test_generation_arguments(pair: tuple[Var, Vqvae]) -> None:
    var, vqvae = pair
    for labels in ([6], [-2]):
        with pytest.raises(ValueError, match=f"class {labels[0]}: .* 0 to 4, and -1 or 5"):
            generate(var, vqvae, labels, 0)
    with pytest.raises(ValueError, match="no labels"):
        generate(var, vqvae, [], 0)
    with pytest.raises(ValueError, match="top_k = 97"):
        generate(var, vqvae, [0], 0, top_k=97)
    with pytest.raises(ValueError, match=r"top_p = 1\.5"):
        generate(var, vqvae, [0], 0, top_p=1.5)
    with pytest.raises(ValueError, match="cfg = -1"):
        generate(var, vqvae, [0], 0, cfg=-1)
    other = Vqvae(VqvaeConfig.from_dict(GOOD_VQ | {"vocab": 32}))
    with pytest.raises(ValueError, match="vocab: the transformer has 96, the VQVAE has 32"):
        generate(var, other, [0], 0)


def test_seed_and_null_class(pair: tuple[Var, Vqvae]) -> None:
    var, vqvae = pair
    one, again, other = (generate(var, vqvae, [1, -1], seed) for seed in (5, 5, 6))
    assert torch.equal(one.images_BCHW, again.images_BCHW)
    assert not torch.equal(torch.cat(one.tokens, 1), torch.cat(other.tokens, 1))
    # For the null class both halves of the guidance pair agree, so guidance does nothing.
    strong = generate(var, vqvae, [-1], 5, cfg=9.0)
    none = generate(var, vqvae, [-1], 5, cfg=0.0)
    assert torch.equal(torch.cat(strong.tokens, 1), torch.cat(none.tokens, 1))
    assert one.images_BCHW.min() >= 0 and one.images_BCHW.max() <= 1


def test_filter_keeps_ties_and_the_largest() -> None:
    inf = float("inf")
    logits = torch.tensor([[[1.0, 3.0, 2.0, 2.0]]])
    assert filter_logits(logits, 2, 0.0).tolist() == [[[-inf, 3.0, 2.0, 2.0]]]
    assert filter_logits(logits, 0, 1e-9).tolist() == [[[-inf, 3.0, -inf, -inf]]]
    assert torch.equal(filter_logits(logits, 0, 1.0), logits)
    half = torch.tensor([[[0.0, 0.0]]])
    # The lower half adds up to exactly 1 - top_p and goes.
    assert filter_logits(half, 0, 0.5).isinf().sum() == 1


def test_draw_follows_probabilities() -> None:
    logits = torch.tensor([0.7, 0.3]).log().expand(100, 100, 2)
    drawn = draw(logits, torch.Generator().manual_seed(0))
    assert drawn.shape == (100, 100)
    assert abs(drawn.float().mean().item() - 0.3) < 0.02


def test_training_drops_labels_and_trains_everything() -> None:
    torch.manual_seed(0)
    config = VarConfig.from_dict(GOOD | {"cond_drop_rate": 0.5, "drop_path_rate": 0.1})
    model, inputs = Var(config).train(), torch.randn(64, 29, 8)
    fill(model)
    model(torch.zeros(64, dtype=torch.long), inputs).square().mean().backward()
    used = model.class_emb.weight.grad
    assert used is not None
    assert [bool(row.any()) for row in used] == [True, False, False, False, False, True]
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # Scales at or above the clamp get no gradient; the fill puts them there now and then.
    assert [n for n in without if "scale_mul" not in n] == []


def test_quantizer_rejects_wrong_shapes(pair: tuple[Var, Vqvae]) -> None:
    vqvae = pair[1]
    with pytest.raises(ValueError, match="latent map of shape"):
        vqvae.quantize.encode(torch.zeros(1, 8, 5, 5))
    with pytest.raises(ValueError, match="images of shape"):
        vqvae.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"lengths \[1\]"):
        vqvae.decode([torch.zeros(1, 1, dtype=torch.long)])


def test_vqvae_gradients_reach_encoder_and_codebook() -> None:
    model = Vqvae(CASE.vqvae).train()
    fill(model)
    out = model(torch.rand(2, 3, 64, 64) * 2 - 1)
    (out.reconstruction_BCHW.square().mean() + out.vq_loss).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert model.quantize.ema_vocab_hit_SV.sum() > 0
