# SPDX-License-Identifier: Apache-2.0
"""DGQ's groups and MPTQ-ViT's regions: by hand, against brute force, and what they gain."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from lutvar.quant.methods import Layer
from lutvar.quant.methods.calibration.fixed_range import FixedRange
from lutvar.quant.methods.layers.state import pack, unpack
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.distribution_groups import TokenRanges, cut
from lutvar.quant.methods.steps.gelu_regions import SignRegions
from lutvar.quant.models import load_model
from support.quant.method_cases import generates, make_block


@pytest.mark.parametrize("groups", [1, 2, 3, 12])
def test_cut_against_brute_force(groups: int) -> None:
    ranges = torch.rand(9, generator=torch.Generator().manual_seed(groups)) * 5
    found, noise = cut(ranges, groups)
    values = sorted(ranges.tolist())
    best = min(
        sum((b - a) * values[b - 1] ** 2 for a, b in itertools.pairwise((0, *ends, 9)))
        for count in range(min(groups, 9))
        for ends in itertools.combinations(range(1, 9), count)
    )
    assert noise == pytest.approx(best / 9, rel=1e-6)
    spent = sum(float(ranges[found == found[n]].max()) ** 2 for n in range(9))
    assert spent == pytest.approx(best, rel=1e-5)
    assert len(set(found.tolist())) <= groups


def error(layer: Layer, x_BLI: Tensor, scales: tuple[tuple[int, int], ...]) -> float:
    assert layer.activation is not None
    parts = [layer.activation(x_BLI[:, a:b], k) for k, (a, b) in enumerate(scales)]
    return float((torch.cat(parts, 1) - x_BLI).square().mean())


@pytest.mark.parametrize("dimension", ["channels", "tokens"])
def test_the_dimension_with_the_outliers_is_grouped(dimension: str) -> None:
    torch.manual_seed(0)
    x_BLI, scales = torch.randn(8, 14, 64), ((0, 1), (1, 5), (5, 14))
    if dimension == "channels":
        x_BLI[..., :3] *= 30
    else:
        x_BLI[:, :2] *= 30
    errors = {}
    for step in ("static-range", "distribution-groups"):
        block, layer = make_block("proj", x_BLI, torch.randn(8, 64), bits=6)
        settings = {"step": step} | ({"groups": 3} if step != "static-range" else {})
        make_step(settings).apply(block)
        errors[step] = error(layer, x_BLI, scales)
    assert errors["distribution-groups"] < 0.2 * errors["static-range"]
    kind = FixedRange if dimension == "channels" else TokenRanges
    assert isinstance(layer.activation, kind)
    assert f"3 groups of {dimension}" in layer.notes[-1]
    scale = layer.activation.scale if kind is FixedRange else layer.activation.scale_L  # type: ignore[union-attr]
    assert len(set(scale.tolist())) <= 3
    tensors: dict[str, Tensor] = {}
    again = unpack(pack(layer.activation, "a", tensors), tensors)
    assert torch.equal(again(x_BLI[:, 1:5], 1), layer.activation(x_BLI[:, 1:5], 1))


def test_ranges_of_tokens_by_hand() -> None:
    ranges = TokenRanges(torch.tensor([1.0, 0.5, 2.0]), torch.tensor([0.0, 1.0, 2.0]), (0, 1), 2.0)
    assert ranges(torch.tensor([[[2.2, 9.0]]]), 0).tolist() == [[[2.0, 3.0]]]
    x = torch.tensor([[[-0.6, 0.8], [-9.0, 1.2]]])
    assert ranges(x, 1).tolist() == [[[-0.5, 1.0], [-4.0, 2.0]]]


def test_regions_by_hand() -> None:
    regions = SignRegions(0.5, 3, 4.0)
    x = torch.tensor([-9.0, -0.17, -0.06, -0.01, 0.0, 0.2, 0.3, 1.3, 99.0])
    wanted = [-0.5, -0.1875, -0.0625, 0.0, 0.0, 0.0, 0.5, 1.5, 3.5]
    assert regions(x).tolist() == wanted


def test_the_best_ratio_is_found() -> None:
    """Against every scale and shift in turn, by the output's error in float64."""
    torch.manual_seed(1)
    x_BLI = torch.nn.functional.gelu(torch.randn(4, 14, 64) * 3, approximate="tanh")
    weight_OI = torch.randn(16, 64)
    block, layer = make_block("fc2", x_BLI, weight_OI, bits=4)
    make_step({"step": "gelu-regions"}).apply(block)
    found, x_NI = layer.activation, x_BLI.flatten(0, 1)
    assert isinstance(found, SignRegions) and found.shift > 1
    w, exact = (
        layer.nearest().double().numpy(),
        x_NI.double().numpy() @ weight_OI.double().numpy().T,
    )

    def output_error(quantized: np.ndarray) -> float:
        return float(((quantized @ w.T - exact) ** 2).mean())

    values, errors = x_NI.double().numpy(), {}
    tops = [np.quantile(values, p) for p in (0.999, 0.9999, 0.99999)] + [values.max()]
    for top, shift in itertools.product(tops, range(9)):
        s, fine = top / 7, top / 7 / 2**shift
        low = np.clip(np.rint(values / fine), -8, 0) * fine
        high = np.clip(np.rint(values / s), 0, 7) * s
        errors[top, shift] = output_error(np.where(values < 0, low, high))
    mine = output_error(found(x_NI).double().numpy())
    assert mine == pytest.approx(min(errors.values()), rel=1e-3)


def test_recipes_generate() -> None:
    digits = load_model("digits")
    assert 0 < generates(digits, "dgq-w4a6") < 0.1


@pytest.mark.slow
def test_greedy_recipe_generates() -> None:
    assert 0 < generates(load_model("digits"), "mptq-w5a6") < 0.1
