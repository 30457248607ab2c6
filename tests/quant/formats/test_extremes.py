# SPDX-License-Identifier: Apache-2.0
"""The largest values of a type stay finite under every rule, and other values do not change."""

from __future__ import annotations

import pytest
import torch

from lutvar.contract.formats import CATALOG
from lutvar.quant.formats.grouping import group
from lutvar.quant.formats.quantize import quantize
from lutvar.quant.formats.scales import ScaleRule
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import QuantizerSpec

NAMES = ("E2M1", "E2M3", "E3M2", "INT4", "INT8", "DUAL4", "DUAL6")


def outlier(dtype: torch.dtype, value: float) -> torch.Tensor:
    x = torch.linspace(-1, 1, 128, dtype=torch.float32).reshape(1, -1).to(dtype)
    x[0, 77] = value
    return x


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("rule", ScaleRule)
@pytest.mark.parametrize("name", NAMES)
def test_a_types_largest_value(dtype: torch.dtype, rule: str, name: str) -> None:
    largest = torch.finfo(dtype).max
    for value in (largest, -largest):
        x = outlier(dtype, value)
        try:
            made = quantize(x, CATALOG[name], group(128), rule).dequantize()
        except ValueError as error:  # a float32 outlier that the scale's type cannot hold
            assert "does not fit" in str(error) and dtype != torch.float16
            continue
        assert torch.isfinite(made).all()
        got = made[0, 77].double().item()
        assert got * value > 0, "its sign stays"
        # Saturating rules keep at least half of it (pow2: the grid's end may be a power below).
        assert abs(value) / 2.01 < abs(got) <= largest


def test_other_result_types() -> None:
    x = outlier(torch.bfloat16, 3e38)
    for rule in ("fpqvar", "absmax_fp32"):
        made = quantize(x, CATALOG["E2M1"], group(128), rule)
        assert made.dequantize(torch.float16)[0, 77].item() == 65504
        assert torch.isfinite(made.dequantize(torch.float32)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "settings",
    [{}, {"scale": "fp16"}, {"scale": "pow2"}, {"scale": "e4m3"}, {"by_sign": True},
     {"by_sign": True, "scale": "fp16"}, {"asymmetric": True}],
    ids=str,
)  # fmt: skip
def test_fake_quantizers(name: str, settings: dict[str, object]) -> None:
    integers = name.startswith("INT")
    if not integers and ("by_sign" in settings or "asymmetric" in settings):
        return
    quantizer = FakeQuantizer(QuantizerSpec(format=name, **settings))
    for value in (torch.finfo(torch.float32).max, 1e38, 1e6):
        for sign in (1, -1):
            x = outlier(torch.float32, sign * value)
            assert torch.isfinite(quantizer(x)).all()
            x[0, 3] = -sign * value
            assert torch.isfinite(quantizer(x)).all()
