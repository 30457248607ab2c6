# SPDX-License-Identifier: Apache-2.0
"""Modules without values: right shapes, and no part of torch that takes a second to import."""

import subprocess
import sys

import torch

from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.model import derived_buffers
from lutvar.quant.var.unfilled import unfilled

CONFIG = VarConfig(
    depth=2, width=128, heads=2, num_classes=3, patch_nums=(1, 2, 3), vocab=16, z_channels=4
)


def test_shapes_and_types_are_those_of_a_filled_model() -> None:
    with unfilled():
        model = Var(CONFIG)
    filled = Var(CONFIG).state_dict()
    for key, value in model.state_dict().items():
        assert value.device.type == "meta", key
        assert (value.shape, value.dtype) == (filled[key].shape, filled[key].dtype), key


def test_visibility_is_by_scale() -> None:
    bias = derived_buffers(CONFIG)["attn_bias_for_masking"][0, 0]
    scale = [0] + [1] * 4 + [2] * 9
    expected = [[0.0 if q >= k else -torch.inf for k in scale] for q in scale]
    assert torch.equal(bias, torch.tensor(expected))
    assert derived_buffers(CONFIG)["lvl_1L"].tolist() == [scale]


def test_loading_a_model_needs_no_compiler() -> None:
    code = (
        "import sys; from lutvar.quant.models import load_model; load_model('digits'); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
