# SPDX-License-Identifier: Apache-2.0
"""Compact model files: small, near the weights, exact when written again, never half read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig, load_var, load_vqvae, save_model
from lutvar.quant.var.checkpoint import CheckpointError


def small_var() -> Var:
    torch.manual_seed(0)
    config = VarConfig(
        depth=2, width=128, heads=2, patch_nums=(1, 2, 3), num_classes=10, vocab=64, z_channels=8
    )
    var = Var(config).eval()
    with torch.no_grad():
        for p in var.parameters():
            if p.dim() > 1:
                p.add_(torch.randn_like(p) * 0.05)
    return var


def test_var_round_trip(tmp_path: Path) -> None:
    var, path = small_var(), tmp_path / "var.safetensors.xz"
    save_model(path, var)
    loaded = load_var(path)
    assert loaded.config == var.config
    for name in ("blocks.0.ffn.fc1.weight", "blocks.1.attn.mat_qkv.weight", "head.weight"):
        before, after = var.state_dict()[name], loaded.state_dict()[name]
        error = (after - before).norm() / before.norm()
        assert 1e-3 < error < 0.02, name
    labels = torch.arange(11)
    for a, b in zip(var.condition(labels).blocks, loaded.condition(labels).blocks, strict=True):
        for before, after in zip(a, b, strict=True):
            assert torch.allclose(before, after, rtol=2e-3, atol=2e-3)
    # float16 of what is no matrix: exact in what float16 holds
    assert torch.equal(loaded.pos_1LC, var.pos_1LC.half().float())
    size, full = path.stat().st_size, sum(p.numel() for p in var.parameters())
    assert size < full, "less than a byte for each weight"
    again = tmp_path / "again.safetensors.xz"
    save_model(again, loaded)
    twice = load_var(again)
    head = twice.head.weight - loaded.head.weight
    assert head.norm() / loaded.head.weight.norm() < 0.02


def test_vqvae_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = VqvaeConfig(vocab=32, z_channels=8, ch=32, patch_nums=(1, 2), ch_mult=(1, 1))
    vqvae, path = Vqvae(config).eval(), tmp_path / "v.safetensors.xz"
    save_model(path, vqvae)
    loaded = load_vqvae(path)
    for name, before in vqvae.state_dict().items():
        after = loaded.state_dict()[name]
        assert (after - before).norm() <= 0.01 * before.norm(), name
    weight = vqvae.decoder.mid.block_1.conv1.weight
    assert not torch.equal(loaded.decoder.mid.block_1.conv1.weight, weight.half().float())
    assert torch.equal(
        loaded.quantize.embedding.weight, vqvae.quantize.embedding.weight.half().float()
    )


def test_damaged_or_wrong_file(tmp_path: Path) -> None:
    var, path = small_var(), tmp_path / "var.safetensors.xz"
    save_model(path, var)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="not a complete compact file"):
        load_var(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="not a complete compact file"):
        load_var(path)
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="holds a var model, not a vqvae model"):
        load_vqvae(path)
    with torch.no_grad():
        var.head.weight[0, 0] = torch.nan
    with pytest.raises(CheckpointError, match=r"head\.weight: has values that are not finite"):
        save_model(path, var)
    assert path.read_bytes() == data
