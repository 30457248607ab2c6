# SPDX-License-Identifier: Apache-2.0
"""Regenerate data/ptq4arvg.npz by running the released PTQ4ARVG code for VAR, in float64.

Usage: python tests/quant/methods/make_ptq4arvg.py PATH_OF_A_CHECKOUT_OF_BienLuky/PTQ4ARVG

For each bit width: a small VAR with weights by formula (`support.quant.ptq4arvg_case`); rows of
random latent inputs, each batch with conditional and unconditional ones; the steps of the released
script in its order; logits of the quantized model for the conditional rows, scale by scale with the
released cache. Two things are adapted: token counts, which the released quantizers hold for the 256
model only, are this model's, and casts to float32 are casts to float64.
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
from torch import Tensor, nn

HERE = Path(__file__).resolve()


def released(checkout: Path) -> dict[str, Any]:
    """The released modules; an upload mixin that they import is not needed."""
    stub = types.ModuleType("huggingface_hub")
    stub.PyTorchModelHubMixin = object  # type: ignore[attr-defined]
    sys.modules.setdefault("huggingface_hub", stub)
    sys.path.insert(0, str(checkout / "VAR"))
    names = ("models", "models.basic_var", "quant.quantizer", "quant.gps", "quant.quant_model",
             "quant.set_quantize_params")  # fmt: skip
    return {name: importlib.import_module(name) for name in names}


def adapt(quantizer: Any, token_nums: tuple[int, ...]) -> None:
    """This model's token counts, and float64 throughout."""
    made = quantizer.TokenAwareUniformQuantizer.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        self.token_nums = token_nums

    quantizer.TokenAwareUniformQuantizer.__init__ = init
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]


def model(code: dict[str, Any], case: Any) -> Any:
    """The released float model, with the biases of qkv where the released scripts put them."""
    c = case.CONFIG
    with contextlib.redirect_stdout(io.StringIO()):
        vae = code["models"].VQVAE(
            vocab_size=c.vocab, z_channels=c.z_channels, ch=32, v_patch_nums=c.patch_nums
        )
        var = code["models"].VAR(
            vae_local=vae, num_classes=c.num_classes, depth=c.depth, embed_dim=c.width,
            num_heads=c.heads, shared_aln=False, attn_l2_norm=True, cond_drop_rate=0.0,
            patch_nums=c.patch_nums, flash_if_available=False, fused_if_available=False,
        )  # fmt: skip
    var = var.eval().double().requires_grad_(False)
    case.fill(var)
    for module in var.modules():
        if isinstance(module, code["models.basic_var"].SelfAttention):
            bias = torch.cat((module.q_bias, module.zero_k_bias, module.v_bias))
            module.mat_qkv.bias = nn.Parameter(bias, requires_grad=False)
    return var


def inputs(var: Any, labels: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
    """Embedded tokens [N, L, C] and class embeddings [N, C]."""
    cond = var.class_emb(labels)
    x = torch.cat((cond.unsqueeze(1) + var.pos_start, var.word_embed(latent)), 1)
    return x + var.lvl_embed(var.lvl_1L) + var.pos_1LC, cond


def calibrate(code: dict[str, Any], var: Any, rows: list[Any], batch: int, bits: int) -> None:
    """The released script's steps in its order; rows: tokens, class embeddings."""
    params, gps = code["quant.set_quantize_params"], code["quant.gps"]
    wq = {"n_bits": bits, "channel_wise": True}
    aq = {"n_bits": bits, "channel_wise": False, "leaf_param": True}
    code["quant.quant_model"].quant_model(var, input_quant_params=aq, weight_quant_params=wq)
    params.set_smooth_quantize_params(var, *rows, batch_size=batch)
    params.set_weight_quantize_params(var, *rows)
    params.set_act_quantize_params(var, *rows, batch_size=batch)
    gps.shift_activation_to_sym(var)
    params.reset_weight_quantize_params(var, *rows)
    params.reset_act_quantize_params(var, *rows, batch_size=batch)
    params.set_calculating_optimal_factor(var, *rows, batch_size=batch)
    gps.absorb_gps_scaling_factor(var)
    params.reset_weight_quantize_params(var, *rows)
    params.set_act_quantize_params(var, *rows, batch_size=batch)
    code["quant.quant_model"].set_quant_state(var, input_quant=True, weight_quant=True)


def forced(var: Any, x: Tensor, cond: Tensor, patch_nums: tuple[int, ...]) -> Tensor:
    """Logits of all scales [N, L, V], one scale after the other with the released cache."""
    for block in var.blocks:
        block.attn.kv_caching(True)
    logits = []
    for h in x.split([p * p for p in patch_nums], 1):
        for block in var.blocks:
            h = block(x=h, cond_BD=cond, attn_bias=None)
        logits.append(var.get_logits(h, cond))
    return torch.cat(logits, 1)


@torch.no_grad()
def main(checkout: Path) -> None:
    code = released(checkout)
    sys.path.append(str(HERE.parents[2]))
    case = importlib.import_module("support.quant.ptq4arvg_case")
    sides, half = case.CONFIG.patch_nums, case.BATCH // 2
    adapt(code["quant.quantizer"], tuple(p * p for p in sides[1:]))
    labels, latent = case.samples()
    out: dict[str, np.ndarray] = {}
    for bits in (8, 6, 4):
        var = model(code, case)
        conditional = inputs(var, labels, latent)
        null = inputs(var, torch.full_like(labels, case.CONFIG.num_classes), latent)
        starts = range(0, len(labels), half)
        rows = [torch.cat([half_[i][a : a + half] for a in starts for half_ in (conditional, null)])
                for i in range(2)]  # fmt: skip
        out["float"] = forced(var, *conditional, sides).numpy()
        calibrate(code, var, rows, case.BATCH, bits)
        out[f"w{bits}a{bits}"] = forced(var, *conditional, sides).numpy()
    np.savez_compressed(HERE.parent / "data" / "ptq4arvg.npz", **out)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
