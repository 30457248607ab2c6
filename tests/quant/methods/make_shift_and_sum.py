# SPDX-License-Identifier: Apache-2.0
"""Regenerate data/shift_and_sum.npz by running the released Shift-and-Sum code on the CPU.

Usage, in tests: python -m quant.methods.make_shift_and_sum CHECKOUT_OF_cvlab-yonsei/Shift-and-Sum

Weights are quantized in float32 as released; then everything runs in float64, so that no decision
depends on the order of a sum. The released code asks for a GPU by name in a few places, which get
the CPU here, and for the 900 most likely tokens, of which these small models have fewer.

The input of proj stays float in all but the last logits: attention's result is a sum of values on a
grid with weights that are powers of two, so that it lies exactly between two codes now and then.
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

from support.quant.official_cases import (
    LABELS,
    PATCH_NUMS,
    RECONSTRUCT,
    RECONSTRUCT_SEED,
    SHIFT_AND_SUM_ALPHA,
    VAR,
    VQVAE,
    compact,
    given_tokens,
    soft_weights,
)


def on_cpu(tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """`Tensor.to` where "cuda" is the CPU."""
    args = tuple("cpu" if a == "cuda" else a for a in args)
    return plain_to(tensor, *args, **kwargs)


plain_to = Tensor.to


def released(checkout: Path) -> types.SimpleNamespace:
    """Modules of the checkout."""
    stubs: dict[str, dict[str, Any]] = {
        "huggingface_hub": {"PyTorchModelHubMixin": object},
        "dist": {"get_device": lambda: "cpu"},
    }
    for name, content in stubs.items():
        module = types.ModuleType(name)
        module.__dict__.update(content)
        sys.modules[name] = module
    Tensor.to = on_cpu  # type: ignore[method-assign, assignment]
    nn.Module.cuda = lambda self: self  # type: ignore[method-assign, assignment]
    sys.path.insert(0, str(checkout))
    for name in [name for name in sys.modules if name.split(".")[0] == "quant"]:
        del sys.modules[name]  # the tests' package has the name of theirs
    names = ("models", "models.var", "quant", "quant.quant_layer", "quant.compute_bitop", "optim",
             "optim.block_recon", "optim.layer_recon")  # fmt: skip
    modules = {name.replace(".", "_"): importlib.import_module(name) for name in names}
    sample = modules["models_var"].sample_with_top_k_top_p_  # type: ignore[attr-defined]

    def fewer(logits: Tensor, top_k: int = 0, **kwargs: Any) -> Any:
        return sample(logits, top_k=min(top_k, logits.shape[-1]), **kwargs)

    modules["models_var"].sample_with_top_k_top_p_ = fewer  # type: ignore[attr-defined]
    return types.SimpleNamespace(**modules)


def settings(bits: int) -> types.SimpleNamespace:
    """The command line's arguments."""
    return types.SimpleNamespace(
        w_bit=bits, a_bit=bits, scale_method="percentile", eps=1e-5, cfg=1.5, seed=2025,
        alpha=SHIFT_AND_SUM_ALPHA, n_grids=10000,
    )  # fmt: skip


def build(code: types.SimpleNamespace) -> Any:
    """The transformer with its weights; it keeps its tokenizer."""
    vae = code.models.VQVAE(
        vocab_size=VQVAE.vocab, z_channels=VQVAE.z_channels, ch=VQVAE.ch,
        share_quant_resi=VQVAE.share_quant_resi, v_patch_nums=PATCH_NUMS,
    )  # fmt: skip
    var = code.models.VAR(
        vae_local=vae, num_classes=VAR.num_classes, depth=VAR.depth, embed_dim=VAR.width,
        num_heads=VAR.heads, attn_l2_norm=True, patch_nums=PATCH_NUMS, cond_drop_rate=0.0,
    )  # fmt: skip
    soft_weights(vae)
    soft_weights(var)
    for model in (vae, var):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return var.eval()


def to_float64(code: types.SimpleNamespace, q_var: Any, rounded: bool = True) -> None:
    """Everything in float64; weights that were quantized in float32 stay what they are.

    With `rounded` false, weights are not quantized yet; their scales stay what they are.
    """
    q_var.model.vae_proxy[0].double()
    for module in q_var.modules():
        if isinstance(module, code.quant_quant_layer.QuantModule):
            for name in ("org_weight", "bias", "org_bias"):
                value = getattr(module, name)
                if value is not None and not isinstance(value, nn.Parameter):
                    setattr(module, name, value.double())
            quantizer = module.weight_quantizer
            if not rounded:
                quantizer.delta = quantizer.delta.double()
                quantizer.zero_point = quantizer.zero_point.double()
                continue
            weight = quantizer(module.weight.data).detach()
            module.weight = nn.Parameter(weight, requires_grad=False)
            module.weight_quantizer = nn.Identity()
    q_var.double()
    q_var.model.get_logits = lambda h, cond: q_var.model.head(q_var.model.head_nm(h, cond))


def forced(q_var: Any) -> Tensor:
    """Logits [2 images * 2 halves, L, vocab] under the given tokens."""
    kept: list[Tensor] = []
    plain = q_var.model.get_logits

    def spy(*args: Any) -> Tensor:
        kept.append(plain(*args))
        return kept[-1].clone()

    q_var.model.get_logits = spy
    q_var.set_quant_state(True, True)
    q_var.autoregressive_infer_cfg(
        B=len(LABELS), label_B=torch.tensor(LABELS), fixed_idx_Bl=given_tokens(), g_seed=0
    )
    q_var.model.get_logits = plain
    return torch.cat(kept, 1)


def thresholds(code: types.SimpleNamespace, q_var: Any, theta: Tensor | float) -> None:
    for module in q_var.modules():
        if isinstance(module, code.quant_quant_layer.QuantMatMul):
            module.theta = theta


def expected(code: types.SimpleNamespace, bits: int) -> dict[str, Any]:
    """Rounded to nearest, with the threshold that the released search finds."""
    args, labels = settings(bits), torch.tensor(LABELS).split(1)
    q_var = code.optim.init_quant_model(build(code), labels, args)
    total = code.quant_compute_bitop.compute_total_bitop(q_var, args)
    to_float64(code, q_var)
    for block in q_var.model.blocks:
        block.attn.proj.disable_act_quant = True
    theta = code.quant_compute_bitop.get_thres_with_bitop(q_var, labels, total, args)
    thresholds(code, q_var, theta)
    found = {"total": float(total), "theta": float(theta), "logits": compact(forced(q_var))}
    for block in q_var.model.blocks:
        block.attn.proj.disable_act_quant = False
    return {**found, "whole": compact(forced(q_var))}


def reconstructed(code: types.SimpleNamespace, theta: float) -> dict[str, np.ndarray]:
    """Rounding of 6-bit weights after a few steps: which of them went up, every 8th output."""
    q_var = code.optim.init_quant_model(build(code), torch.tensor(LABELS).split(1), settings(6))
    to_float64(code, q_var, rounded=False)
    thresholds(code, q_var, theta)
    how = {
        "labels": torch.tensor(LABELS).split(1), "idx_Bls": given_tokens().split(1), "p": 2,
        "opt_mode": "mse", "wwq": False, "waq": False, "cfg": 1.5, "seed": 2025,
        "batch_size": RECONSTRUCT["batch"], "iters": RECONSTRUCT["steps"],
        "weight": RECONSTRUCT["penalty"], "lr": RECONSTRUCT["rate"],
    }  # fmt: skip
    model = q_var.model
    block = model.blocks[0]
    parts = {
        "ada_lin": block.ada_lin[1], "attn": block.attn, "ffn": block.ffn, "head": model.head,
        "word_embed": model.word_embed,
    }  # fmt: skip
    found = {}
    for name, part in parts.items():
        torch.manual_seed(RECONSTRUCT_SEED)
        single = isinstance(part, code.quant_quant_layer.QuantModule)
        learn = code.optim.layer_reconstruction if single else code.optim.block_reconstruction
        learn(q_var, part, **how)
        layers = {name: part} if single else {
            n: m for n, m in part.named_modules()
            if isinstance(m, code.quant_quant_layer.QuantModule)
        }  # fmt: skip
        for site, layer in layers.items():
            up = layer.weight_quantizer.alpha.detach() >= 0
            found[f"up.{site.replace('mat_', '')}"] = np.packbits(up[::8].numpy())
    return found


def main(checkout: Path) -> None:
    code = released(checkout)
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for bits in (4, 6):
        with contextlib.redirect_stdout(io.StringIO()):
            found |= {f"w{bits}a{bits}.{k}": v for k, v in expected(code, bits).items()}
    with contextlib.redirect_stdout(io.StringIO()):
        found |= reconstructed(code, found["w6a6.theta"])
    np.savez_compressed(Path(__file__).parent / "data" / "shift_and_sum.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
