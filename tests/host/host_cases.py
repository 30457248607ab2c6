# SPDX-License-Identifier: Apache-2.0
"""Small configurations and random layers shared by the host tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lutvar.contract.config import GROUP, HardwareConfig, QuantConfig, load_quant
from lutvar.contract.layout import StreamLayout
from lutvar.host.packed import PackedLinear, pack_linear
from lutvar.models import LoadedModel, ModelInfo
from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig
from lutvar.sim.runner import tiny_hardware


@dataclass(frozen=True)
class Layer:
    """Stands for a quantized layer: random codes, scales and biases."""

    codes: np.ndarray
    scales: np.ndarray
    bias: np.ndarray
    exponent: int
    rotate: bool = False
    dual: bool = False


def tiny(quant: str = "fp4", **changes: int) -> tuple[HardwareConfig, QuantConfig]:
    """The smallest useful accelerator, with changes."""
    sizes = {
        "token_rows": 2,
        "outputs": 4,
        "stream_bytes": 32,
        "max_groups": 4,
        "buffer_vectors": 16,
        "row_block": 16,
    }
    return HardwareConfig(name="tiny", quant=quant, **(sizes | changes)), load_quant(quant)


def gateware(quant: str = "fp4") -> tuple[HardwareConfig, QuantConfig]:
    """The accelerator that is built and simulated: the benches', so that builds are shared."""
    return tiny_hardware(quant), load_quant(quant)


def random_layer(
    rng: np.random.Generator,
    quant: QuantConfig,
    outputs: int,
    groups: int,
    *,
    rotate: bool = False,
    dual: bool = False,
) -> Layer:
    """Codes over all that the encoder can make, scales over all normal binades and some zeros."""
    scales = rng.integers(0x0400, 0x6800, (outputs, groups), dtype=np.uint16)
    scales[rng.random(scales.shape) < 0.05] = 0
    return Layer(
        rng.choice(quant.weight_format.codes_used, (outputs, groups * GROUP)).astype(np.uint8),
        scales,
        rng.standard_normal(outputs).astype(np.float32),
        int(rng.integers(-20, 5)),
        rotate,
        dual,
    )


def packed(layer: Layer, hardware: HardwareConfig, quant: QuantConfig) -> PackedLinear:
    return pack_linear("block0.test", layer, StreamLayout.of(hardware, quant))


def random_rows(rng: np.random.Generator, rows: int, groups: int) -> np.ndarray:
    """Activations with groups of zeros, of one sign, of tiny and of the largest values."""
    x = rng.standard_normal((rows, groups, GROUP)).astype(np.float32)
    x[0, 0] = 0
    x[-1, -1] = np.abs(x[-1, -1])
    x[rows // 2, 0] *= np.float32(2.0**-18)
    x[rows // 2, -1] = -np.abs(x[rows // 2, -1]) * 65504
    return x.reshape(rows, groups * GROUP)


def tiny_model(seed: int = 0, classes: int = 3) -> LoadedModel:
    """A random VAR with its tokenizer: one block of width 128, two scales, images of 16 pixels."""
    torch.manual_seed(seed)
    shared = {"patch_nums": (1, 2), "vocab": 16, "z_channels": 8}
    var = Var(VarConfig(depth=1, width=128, heads=2, num_classes=classes, mlp_ratio=2.0, **shared))
    vqvae = Vqvae(VqvaeConfig(ch=32, ch_mult=(1, 1), num_res_blocks=1, in_channels=1, **shared))
    with torch.no_grad():  # the released start leaves gates near zero, so nothing would pass them
        for parameter in var.parameters():
            parameter.normal_(std=0.2)
    names = tuple(f"class {i}" for i in range(classes))
    info = ModelInfo("tiny", 1.5, 0, 0.0, names, {}, {}, var.config, vqvae.config)
    return LoadedModel(var.eval(), vqvae.eval(), info, Path())
