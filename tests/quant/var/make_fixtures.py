# SPDX-License-Identifier: Apache-2.0
"""Regenerate the fixtures under data/ by running the released VAR code.

Usage, in tests: python -m quant.var.make_fixtures PATH_OF_A_CHECKOUT_OF_FoundationVision/VAR
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from support.quant.var_cases import CASES, OFFICIAL, Case, image_batch
from support.quant.var_weights import fill

DATA = Path(__file__).parent / "data"


def released(checkout: Path) -> Any:
    """Import the released package; its optional upload mixin is not needed."""
    stub = types.ModuleType("huggingface_hub")
    stub.PyTorchModelHubMixin = object  # type: ignore[attr-defined]
    sys.modules.setdefault("huggingface_hub", stub)
    sys.path.insert(0, str(checkout))
    return importlib.import_module("models")


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """The meta device, with the few small tensors whose values are read kept on the CPU."""
    saved = torch.linspace, torch.tensor
    torch.linspace = lambda *a, **k: saved[0](*a, **{**k, "device": "cpu"})
    torch.tensor = lambda *a, **k: saved[1](*a, **{**k, "device": "cpu"})
    try:
        with torch.device("meta"):
            yield
    finally:
        torch.linspace, torch.tensor = saved


def manifest(model: nn.Module) -> dict[str, list[int]]:
    """Keys and shapes; equal entries of consecutive blocks become one "blocks.{0..n}." entry."""
    folded: dict[str, list[int]] = {}
    count = 0
    for key, value in model.state_dict().items():
        match = re.match(r"blocks\.(\d+)\.(.*)", key)
        if match is None:
            folded[key] = list(value.shape)
            continue
        count = max(count, int(match[1]))
        if match[1] == "0":
            folded["blocks.N." + match[2]] = list(value.shape)
        assert folded["blocks.N." + match[2]] == list(value.shape)
    return {k.replace("blocks.N.", f"blocks.{{0..{count}}}."): v for k, v in folded.items()}


def build(models: Any, case: Case) -> tuple[Any, Any]:
    c = case.var
    vae = models.VQVAE(
        vocab_size=c.vocab,
        z_channels=c.z_channels,
        ch=case.vqvae.ch,
        share_quant_resi=case.vqvae.share_quant_resi,
        v_patch_nums=c.patch_nums,
    )
    var = models.VAR(
        vae_local=vae,
        num_classes=c.num_classes,
        depth=c.depth,
        embed_dim=c.width,
        num_heads=c.heads,
        shared_aln=c.shared_adaln,
        attn_l2_norm=c.attn_l2_norm,
        cond_drop_rate=0.0,
        patch_nums=c.patch_nums,
    )
    return vae.eval(), var.eval()


@torch.no_grad()
def expected(models: Any, case: Case) -> dict[str, np.ndarray]:
    """What the released code computes for one case."""
    vae, var = build(models, case)
    fill(vae)
    fill(var)
    out: dict[str, Any] = {}
    tokens = vae.img_to_idxBl(image_batch(case))
    out["encoded"] = torch.cat(tokens, dim=1)
    teacher = vae.quantize.idxBl_to_var_input(tokens)
    out["teacher_inputs"] = teacher[:, :: case.stride]
    out["teacher_logits"] = var(torch.tensor(case.labels), teacher)[:, :: case.stride]
    out["reconstruction"] = vae.idxBl_to_img(tokens, same_shape=True, last_one=True)[..., ::8, ::8]
    rec, _, loss = vae_train_pass(vae, image_batch(case))
    out["train_rec"], out["train_loss"] = rec[..., ::8, ::8], loss
    drawn: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    module: Any = sys.modules["models.var"]
    sample = module.sample_with_top_k_top_p_

    def spy(logits: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        kept.append(logits.clone())
        drawn.append(sample(logits, **kwargs)[:, :, 0])
        return drawn[-1].unsqueeze(-1)

    module.sample_with_top_k_top_p_ = spy
    s = case.sampling
    image = var.autoregressive_infer_cfg(
        len(case.labels),
        torch.tensor(case.labels),
        g_seed=s.seed,
        cfg=s.cfg,
        top_k=s.top_k,
        top_p=s.top_p,
    )
    module.sample_with_top_k_top_p_ = sample
    out["tokens"] = torch.cat(drawn, dim=1)
    out["logits"] = torch.cat(kept, dim=1)[:, :: case.stride]
    out["image"] = image[..., ::8, ::8]
    return {
        k: v.numpy().astype(np.int16 if v.dtype == torch.int64 else np.float32)
        for k, v in out.items()
    }


def vae_train_pass(vae: Any, image: torch.Tensor) -> Any:
    """The released training pass needs the size of a process group; there is one process."""
    module: Any = sys.modules["models.quant"]
    module.tdist = types.SimpleNamespace(get_world_size=lambda: 1)
    return vae(image)


def main(checkout: Path) -> None:
    models = released(checkout)
    shapes: dict[str, Any] = {}
    for name, (depth, patch_nums, shared) in OFFICIAL.items():
        with shapes_only(), contextlib.redirect_stdout(io.StringIO()):
            vae = models.VQVAE(vocab_size=4096, z_channels=32, ch=160, v_patch_nums=patch_nums)
            var = models.VAR(
                vae_local=vae,
                depth=depth,
                embed_dim=64 * depth,
                num_heads=depth,
                shared_aln=shared,
                attn_l2_norm=True,
                patch_nums=patch_nums,
            )
        shapes[name] = manifest(var)
        if name == "d16":
            shapes["vae"] = manifest(vae)
    lines = [
        f'"{name}": {{\n' + ",\n".join(f"{json.dumps(k)}: {v}" for k, v in m.items()) + "\n}"
        for name, m in shapes.items()
    ]
    (DATA / "manifests.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    quant = sys.modules["models.quant"]
    phis = {}
    for count in (2, 3, 4, 5):
        shared_phis = quant.PhiPartiallyShared(nn.ModuleList(nn.Identity() for _ in range(count)))
        for scales in range(2, 17):
            picked = [shared_phis[i / (scales - 1)] for i in range(scales)]
            phis[f"{scales},{count}"] = [
                next(j for j in range(count) if shared_phis.qresi_ls[j] is p) for p in picked
            ]
    (DATA / "phi_indices.json").write_text(json.dumps(phis, separators=(",", ":")) + "\n")
    for case in CASES:
        with contextlib.redirect_stdout(io.StringIO()):
            np.savez_compressed(DATA / f"{case.name}.npz", **expected(models, case))  # type: ignore


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
