# SPDX-License-Identifier: Apache-2.0
"""AdaLog: tables, the search, and what the step gains on a linear."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lutvar.quant.methods.attention.log_softmax import best_base
from lutvar.quant.methods.calibration.fixed_range import FixedRange
from lutvar.quant.methods.layers.search import progressive
from lutvar.quant.methods.quantizers.logarithmic import BASE, GELU_SHIFT, LogTable
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.adalog import ShiftedLog
from lutvar.quant.models import load_model
from support.quant.method_models import error, float_output, generated, one_layer


def _oracle(x: float, bits: int, q: int) -> float:
    """The paper's two tables for one value, in float64."""
    code = int(np.round(-np.log2(max(x, 1e-15)) * 37 / q))
    if code >= 2**bits:
        return 0.0
    fine = 2 ** (bits + 1) - 2
    fraction = np.round(2 ** (-((code * q) % 37) / 37) * fine) / fine
    return float(fraction / 2 ** ((code * q) // 37))


@pytest.mark.parametrize("q", [10, 20, 37, 50, 101])
def test_table_is_the_papers(q: int) -> None:
    table = LogTable("adalog", 4, q)
    x = torch.rand(200, generator=torch.Generator().manual_seed(q)) ** 4
    assert table(x).tolist() == pytest.approx([_oracle(float(v), 4, q) for v in x])
    if q == BASE:  # base 2
        assert torch.equal(table(x), LogTable("log2", 4)(x))


def test_gelu_shift_is_the_minimum_of_gelu() -> None:
    x = torch.linspace(-3, 0, 100001, dtype=torch.float64)
    lowest = float(F.gelu(x).min())
    assert lowest == pytest.approx(-GELU_SHIFT, abs=1e-5)
    assert float(F.gelu(x, approximate="tanh").min()) > -GELU_SHIFT - 1e-4


def test_progressive_finds_the_minimum_of_each_channel() -> None:
    goal = torch.tensor([[0.31, 0.77], [0.9, 0.05]])

    def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - goal[:, 0]) ** 2 + (b - goal[:, 1]) ** 2

    coarse = torch.stack(progressive(distance, 2, 36, 0), 1)
    fine = torch.stack(progressive(distance, 2, 36, 6), 1)
    assert (coarse - goal).abs().max() > 0.03
    assert (fine - goal).abs().max() < 0.01
    # The start is kept when it is best.
    exact = progressive(distance, 2, 16, 0, (0.31, 0.77))
    assert (float(exact[0][0]), float(exact[1][0])) == pytest.approx((0.31, 0.77))


def test_best_base_against_all_bases() -> None:
    draw = torch.Generator().manual_seed(2)
    p = torch.softmax(torch.randn(2, 2, 12, 12, generator=draw) * 3, -1)
    v = torch.randn(2, 2, 12, 16, generator=draw)
    exact = p @ v
    errors = {
        q: float((LogTable("adalog", 3, q)(p) @ v - exact).square().mean()) for q in range(10, 138)
    }
    found = best_base(p, v, 3, candidates=32)
    assert errors[found.q] <= 1.1 * min(errors.values()) < 0.8 * errors[BASE]


def test_step_beats_ranges_on_post_gelu() -> None:
    x = F.gelu(torch.randn(8, 14, 64, generator=torch.Generator().manual_seed(4)) * 2)
    found = {}
    for name, settings in {
        "static": {"step": "static-range"},
        "uniform": {"step": "adalog", "log_sites": []},
        "log": {"step": "adalog"},
        "wide": {"step": "adalog", "candidates": 64, "steps": 4, "rounds": 2},
    }.items():
        layer, block = one_layer("fc2", x)
        exact = float_output(layer, x)
        make_step(settings).apply(block)
        layer.finish()
        found[name] = error(layer, x, exact)
        if name == "log":
            assert isinstance(layer.activation, ShiftedLog)
            # What the layer adds is a constant: the shift through the used weight.
            shifted = layer.activation.table(x + GELU_SHIFT) @ layer.rounded_OI.T
            bias = layer.bias_O - GELU_SHIFT * layer.rounded_OI.sum(1)
            assert torch.allclose(layer(x, 0), shifted + bias, atol=1e-4)
    assert found["uniform"] < found["static"] and found["log"] < found["static"]
    assert found["wide"] < found["log"]


def test_weight_search_against_brute_force() -> None:
    """The quadratic form ranks candidates as the output error itself does."""
    x = torch.randn(8, 14, 16, generator=torch.Generator().manual_seed(6))
    layer, block = one_layer("proj", x, outputs=3)
    layer.activation = FixedRange.between(x.min().reshape(1), x.max().reshape(1), 8)
    weight = layer.weight_OI.clone()
    make_step({"step": "adalog", "candidates": 64, "steps": 2}).apply(block)
    rows = x.flatten(0, 1)
    searched = (rows @ (layer.rounded_OI - weight).T).square().mean(0)
    for o in range(3):
        row, errors = weight[o], []
        for a, b in itertools.product(torch.linspace(0.4, 1, 16), repeat=2):
            rounded = FixedRange.between(row.min() * a, row.max() * b, 4)(row)
            errors.append(float((rows @ (rounded - row)).square().mean()))
        assert float(searched[o]) < 1.3 * min(errors) < float(np.median(errors))


def test_input_below_the_shift_is_refused() -> None:
    _, block = one_layer("proj", torch.randn(8, 14, 16))
    with pytest.raises(ValueError, match=r"block0\.proj reaches -.*take it out of log_sites"):
        make_step({"step": "adalog", "log_sites": ["proj"]}).apply(block)


@pytest.mark.parametrize("bits", [4, 6])
def test_recipe_generates(bits: int) -> None:
    quick = {"candidates": 8, "steps": 0}
    quantized, errors = generated(load_model("digits"), f"adalog-w{bits}a{bits}", quick=quick)
    assert 0.001 < errors[0] < 0.2
    kinds = {s.name: type(layer.activation).__name__ for s, layer in quantized.layers.items()}
    assert kinds == {
        "qkv": "FixedRange", "proj": "FixedRange", "fc1": "FixedRange", "fc2": "ShiftedLog",
    }  # fmt: skip
