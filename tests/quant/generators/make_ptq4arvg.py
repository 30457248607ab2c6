# SPDX-License-Identifier: Apache-2.0
"""Regenerate data/ptq4arvg.npz by running the released PTQ4ARVG code for RAR on the CPU.

Usage, in tests: python -m quant.generators.make_ptq4arvg CHECKOUT_OF_BienLuky/PTQ4ARVG

The small RAR of `generator_cases`, samples that lutvar draws from it, the steps of the released
script in its order with all rows at once, and the quantized model's logits for the first samples,
token by token with the released cache.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lutvar.quant.methods.calibration.samples import calibration_set
from support.quant.generator_cases import CASES, model_of

from .make_fixtures import DATA, build_rar, fill, import_rar

#: Calibration samples, and those whose logits are kept.
SAMPLES, KEPT = 16, 4
BITS = (8, 6)


def released(checkout: Path) -> tuple[Any, Any]:
    """RAR with replaceable products, and the released package `quant`, which shares a name here."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "quant"]:
        del sys.modules[name]
    sys.path.insert(0, str(checkout / "RAR"))
    rar, _ = import_rar(checkout / "RAR")
    return rar, importlib.import_module("quant")


@torch.no_grad()
def logits(
    rar: Any, quant: Any, bits: int, rows: tuple[Tensor, Tensor], labels: Tensor, given: Tensor
) -> Tensor:
    """Logits [B, T, V] of the quantized model; rows are ids and conditions."""
    model = build_rar(rar, CASES[0].config)
    fill(model)
    inputs = {"n_bits": bits, "channel_wise": False}
    weights = {"n_bits": bits, "channel_wise": True}
    model = quant.quant_model(model, input_quant_params=inputs, weight_quant_params=weights).eval()
    quant.set_smooth_quantize_params(model, *rows)
    quant.set_quant_state(model, input_quant=True, weight_quant=True)
    model.forward_fn(*rows, is_sampling=True)
    quant.shift_activation_to_sym(model)
    model.forward_fn(*rows, is_sampling=True)
    quant.set_calculating_optimal_factor(model, *rows)
    quant.absorb_gps_scaling_factor(model)
    quant.set_quant_state(model, input_quant=True, weight_quant=True)
    model.forward_fn(*rows, is_sampling=True)
    model.enable_kv_cache()
    parts = [
        model.forward_fn(given[:, :t], labels, is_sampling=True)[:, -1:]
        for t in range(given.shape[1])
    ]
    return torch.cat(parts, 1)


def main(checkout: Path) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    case = CASES[0]
    samples = calibration_set(model_of(case), None, SAMPLES, 0, case.sampling.cfg)
    labels, tokens = samples.row_data(case.config.num_classes)
    first = case.config.vocab + 1
    rows = tokens[:, :-1], labels + first
    rar, quant = released(checkout)
    kept = {"tokens": samples.tokens_NL.numpy(), "labels": samples.labels_N.numpy()}
    for bits in BITS:
        found = logits(rar, quant, bits, rows, rows[1][:KEPT], tokens[:KEPT])
        kept[f"w{bits}a{bits}"] = found.numpy()
    np.savez_compressed(DATA / "ptq4arvg.npz", **kept)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
