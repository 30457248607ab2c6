# SPDX-License-Identifier: Apache-2.0
"""Regenerate data/fpqvar.npz by running the released FPQVAR code on the CPU.

Usage, in tests: python -m quant.methods.make_fpqvar PATH_OF_A_CHECKOUT_OF_PKU-SEC-Lab/FPQVAR

The released code needs three things that are not on a CPU: its CUDA kernel, for which
`nearest_last` stands in (the same search in the same order, in float32); half precision, in place
of which the quantized model runs in float64 here, so that no decision depends on the order of a sum
(weights are quantized in float32, and the 6-bit kernels return FP16 as they do); and products of
mixed types, which are computed in the wider one.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from support.quant.official_cases import (
    FPQVAR,
    LABELS,
    PATCH_NUMS,
    VAR,
    VQVAE,
    FpqvarCase,
    compact,
    factors,
    given_tokens,
    soft_weights,
)

PACKAGE = "models_fp_quant_transform_rotate"


def nearest_last(x: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """What the CUDA kernel does: the last of the nearest entries, 0 where nothing compares."""
    best = torch.full_like(x, 102400.0)
    found = torch.zeros_like(x)
    for entry in grid.tolist():
        distance = (x - entry).abs()
        nearer = distance <= best
        best = torch.where(nearer, distance, best)
        found = torch.where(nearer, torch.full_like(x, entry), found)
    return found, found


def wide_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The product in the widest type, whatever the operands were rounded to."""
    wide = torch.promote_types(x.dtype, weight.dtype if bias is None else bias.dtype)
    y = x.to(wide) @ weight.to(wide).mT
    return y if bias is None else y + bias


def attention_BLHc(q: Tensor, k: Tensor, v: Tensor, scale: float, **_: Any) -> Tensor:
    """What xFormers computes: operands and result [batch, tokens, heads, channels]."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return ((q * scale @ k.mT).softmax(-1) @ v).transpose(1, 2).contiguous()


def released(checkout: Path) -> tuple[Any, Any, Any, Any]:
    """Package, quantization, rotation and transformation modules of the checkout."""
    stubs: dict[str, dict[str, Any]] = {
        "huggingface_hub": {"PyTorchModelHubMixin": object},
        "quant_cuda": {"quant": nearest_last},
        "dist": {"get_device": lambda: "cpu"},
        "transformers": {},
        "quant_utils": {},
    }
    for name, content in stubs.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        sys.modules[name] = module
    sys.path[:0] = [str(checkout), str(checkout / "learnable_transformation")]
    torch.nn.functional.linear = wide_linear  # type: ignore[assignment]
    names = (PACKAGE, f"{PACKAGE}.quant_utils", "rotate_utils.rotation_utils",
             "transform_model_utils")  # fmt: skip
    return tuple(importlib.import_module(name) for name in names)  # type: ignore[return-value]


def build(models: Any) -> Any:
    """The transformer with its weights; it keeps its tokenizer."""
    vae = models.VQVAE(
        vocab_size=VQVAE.vocab, z_channels=VQVAE.z_channels, ch=VQVAE.ch,
        share_quant_resi=VQVAE.share_quant_resi, v_patch_nums=PATCH_NUMS,
    )  # fmt: skip
    var = models.VAR(
        vae_local=vae, num_classes=VAR.num_classes, depth=VAR.depth, embed_dim=VAR.width,
        num_heads=VAR.heads, attn_l2_norm=True, patch_nums=PATCH_NUMS, cond_drop_rate=0.0,
    )  # fmt: skip
    soft_weights(vae)
    soft_weights(var)
    return var.eval()


@torch.no_grad()
def logits(parts: tuple[Any, Any, Any, Any], case: FpqvarCase) -> Tensor:
    """Logits [2 images * 2 halves, L, vocab] under given tokens."""
    models, quantization, rotation, transformation = parts
    var = build(models)
    s: dict[str, Any] = {name: torch.ones(VAR.width) for name in ("qkv", "fc1")}
    if case.bits == 4:
        s = factors(case.signed)
        transformation.transform_model(var, s["qkv"], s["fc1"])
    rotation.rotate_model(var, "cpu", True)
    per_group = case.bits == 4
    var = quantization.quantize_VAR(
        var,
        weight_quant="per_group" if per_group else "per_channel",
        act_quant="per_group" if per_group else "per_token",
        w_bit=case.bits, a_bit=case.bits, act_quant_sym=True,
        activation_fp_quant=True, weight_fp_quant=True,
        act_fp_type="fp_e2" if per_group else "fp6_e2m3",
        weight_fp_type="fp_e2" if per_group else "fp6_e2m3",
        fc2_fp_type="fp_e1m2_neg_e2m1_pos" if per_group else "fp6_int_neg_e2m3_pos",
    )  # fmt: skip
    blocks: Any = sys.modules[f"{PACKAGE}.basic_var"]
    blocks.memory_efficient_attention = attention_BLHc
    for block in var.blocks:
        block.attn.using_xform = case.heads
        var.double()
    var.vae_proxy[0].double()
    matrix = rotation.block_random_hadamard_matrix(VAR.width, 128, "cpu", seed=42).float().double()
    kept: list[Tensor] = []
    given = iter(given_tokens().split([p * p for p in PATCH_NUMS], 1))

    def spy(h: Tensor, cond_BD: Tensor) -> Tensor:
        """As released, without its conversions to float32."""
        kept.append(var.head(var.head_nm(h, cond_BD)))
        return kept[-1].clone()

    var.get_logits = spy
    module: Any = sys.modules[f"{PACKAGE}.var"]
    module.sample_with_top_k_top_p_ = lambda *_, **__: next(given).unsqueeze(-1)
    var.autoregressive_infer_cfg(
        len(LABELS), torch.tensor(LABELS), g_seed=0, rotation_matrix=matrix,
        quant_KV=case.kv_bits is not None, kv_bit=case.kv_bits,
        mat_qkv_best_s=s["qkv"], fc1_best_s=s["fc1"],
    )  # fmt: skip
    return torch.cat(kept, 1)


def main(checkout: Path) -> None:
    parts = released(checkout)
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(io.StringIO()):
        found = {case.key: compact(logits(parts, case)) for case in FPQVAR}
    np.savez_compressed(Path(__file__).parent / "data" / "fpqvar.npz", **found)  # type: ignore


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
