# SPDX-License-Identifier: Apache-2.0
"""The free matrix between values and proj: same function, least expected error."""

from __future__ import annotations

from typing import Any, cast

import torch

from lutvar.quant.methods import Recipe, calibration_set, quantize_var
from lutvar.quant.methods.calibration.importance import output_importance
from lutvar.quant.methods.calibration.samples import replay
from lutvar.quant.methods.steps.head_balance import balancing
from lutvar.quant.models import load_model
from lutvar.quant.var.sites import LinearSite


def definite(seed: int, size: int = 6) -> torch.Tensor:
    torch.manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64) * torch.logspace(-1, 1, size)
    return root @ root.mT


def test_balanced_matrices_are_equal_diagonal_and_best() -> None:
    x_cc, g_cc = definite(0), definite(1)
    found = balancing(x_cc, g_cc, 1e-12)
    m, inverse = found.map_cc, found.inverse_cc
    assert torch.allclose(m @ inverse, torch.eye(6, dtype=torch.float64), atol=1e-8)
    first, second = m @ x_cc @ m.mT, inverse.mT @ g_cc @ inverse
    assert torch.allclose(first, second, atol=1e-6) and torch.allclose(
        first, first.diagonal().diag(), atol=1e-6
    )

    def cost(m: torch.Tensor) -> float:
        inverse = torch.linalg.inv(m)
        return float((m @ x_cc @ m.mT).trace() * (inverse.mT @ g_cc @ inverse).trace())

    least = cost(m)
    plain = float(x_cc.trace() * g_cc.trace())
    assert abs(found.gain - least / plain) < 1e-6 and least < 0.9 * plain
    for _ in range(50):
        change = torch.eye(6, dtype=torch.float64) + 0.1 * torch.randn(6, 6, dtype=torch.float64)
        assert cost(change @ m) > least * (1 - 1e-9)
    # Commuting matrices have the known answer: fourth root of the ratio, gain by Cauchy-Schwarz.
    a, b = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([16.0, 1.0, 0.25]).double()
    known = balancing(a.diag(), b.diag(), 1e-12)
    assert abs(known.gain - float((a * b).sqrt().sum() ** 2 / (a.sum() * b.sum()))) < 1e-6


def test_the_function_stays() -> None:
    digits = load_model("digits")
    samples = calibration_set(digits.var, digits.vqvae, 6, seed=0)
    steps = ({"step": "head-balance"},)
    recipe = Recipe.model_validate({"name": "b", "layers": {"qkv": {}, "proj": {}}, "steps": steps})
    made = quantize_var(digits.var, recipe, samples)
    exact = torch.cat(replay(digits.var, samples), 1)
    with made.installed(digits.var) as var:
        found = torch.cat(replay(var, samples), 1)
    assert torch.allclose(found, exact, atol=2e-3 * float(exact.abs().max()))
    weight_OI = digits.var.blocks[0].attn.proj.weight
    assert not torch.allclose(made.layers[LinearSite(0, "proj")].weight_OI, weight_OI, atol=1e-2)


def test_importance_predicts_the_divergence_of_small_errors() -> None:
    """Noise of variance v on proj's output costs v tr(F) / 2 nat a token."""
    digits = load_model("digits")
    var = digits.var
    samples = calibration_set(var, digits.vqvae, 30, seed=0)
    site = LinearSite(1, "proj")
    found = output_importance(var, samples, ("proj",))
    assert set(found) == {LinearSite(i, "proj") for i in range(var.config.depth)}
    fisher_OO = found[site]
    assert torch.allclose(fisher_OO, fisher_OO.mT)
    size = 0.02 * float(var.blocks[1].attn.proj.weight.detach().norm(dim=1).mean())
    labels_B, latent_BLZ = samples.row_data(var.config.num_classes)
    draw = torch.Generator().manual_seed(3)

    def noisy(at: LinearSite, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.linear(x, w, b)
        return y + size * torch.randn(y.shape, generator=draw) if at == site else y

    with torch.no_grad():
        exact = var(labels_B, latent_BLZ).log_softmax(-1)
        before, var.linear_backend = var.linear_backend, cast(Any, noisy)
        try:
            value = var(labels_B, latent_BLZ).log_softmax(-1)
        finally:
            var.linear_backend = before
    divergence = float((exact.exp() * (exact - value)).sum(-1).mean())
    expected = size**2 * float(fisher_OO.trace()) / 2
    assert 0.7 < divergence / expected < 1.4
