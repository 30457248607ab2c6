# SPDX-License-Identifier: Apache-2.0
"""Channel shifts in front of norm sites: folded into the vectors of the export, in order."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.methods import load_recipe, quantize_var
from lutvar.quant.methods.hardware.export import export, export_file
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers.operations import ChannelScale, ChannelShift
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq import QuantizationError, quantize_transformer
from lutvar.quant.var.sites import LinearSite


@cache
def digits() -> LoadedModel:
    return load_model("digits")


def test_export_folds_shifts_in_order(tmp_path: Path) -> None:
    """b of the norm becomes ((b + t1) s + t2), whatever class."""
    quantized = quantize_var(digits().var, load_recipe("fpqvar-fp4-no-galt"))
    site = LinearSite(1, "fc1")
    layer = quantized.layers[site]
    width = digits().var.config.width
    first, second = torch.linspace(-1, 2, width), torch.linspace(0.3, -0.2, width)
    factor = torch.linspace(0.5, 2, width)
    layer.operations[:0] = [
        ChannelShift(first, True), ChannelScale(factor, True), ChannelShift(second, True)
    ]  # fmt: skip
    report = hardware(quantized, digits().var)
    assert report.runs
    exported = export(quantized, digits().var)
    path = tmp_path / "shifts.safetensors"
    quantized.save(path, digits().var)
    of_file = export_file(path, digits().var)[1]
    for key, one in exported.layers.items():
        assert np.array_equal(of_file.layers[key].codes, one.codes), key
        assert np.array_equal(of_file.layers[key].scales, one.scales), key
        assert np.array_equal(of_file.layers[key].bias, one.bias), key
    for label in (2, 5):
        pairs = zip(of_file.class_vectors(label), exported.class_vectors(label), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    plain = quantize_transformer(digits().var, load_quant("fp4"), progress=False)
    for label in (2, 5):
        b = torch.from_numpy(plain.class_vectors(label).block(1, "shift2")).float()
        found = torch.from_numpy(exported.class_vectors(label).block(1, "shift2")).float()
        assert torch.allclose(found, (b + first) * factor + second, atol=5e-3)
        a = torch.from_numpy(plain.class_vectors(label).block(1, "scale2")).float()
        found = torch.from_numpy(exported.class_vectors(label).block(1, "scale2")).float()
        assert torch.allclose(found, a * factor, rtol=2e-3)
    # Behind the rotation, or where no norm stands in front, there is no such step.
    layer.operations.append(ChannelShift(first, False))
    proj = quantized.layers[LinearSite(0, "proj")]
    proj.operations.append(ChannelShift(torch.ones(width), False))
    missing = hardware(quantized, digits().var).missing
    where = "proj of block 0, fc1 of block 1"
    assert missing == (f"{where}: channel shifts that neither a norm nor GELU in front takes in",)


def test_shifts_need_a_bias_that_takes_them_back() -> None:
    shifts = {LinearSite(0, "qkv"): np.ones(digits().var.config.width, np.float32)}
    with pytest.raises(
        QuantizationError, match=r"block0\.qkv: channel shifts .* prequantized weight"
    ):
        quantize_transformer(digits().var, load_quant("fp4"), progress=False, shifts=shifts)
