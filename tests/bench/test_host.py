# SPDX-License-Identifier: Apache-2.0
"""The host's line of `lutvar bench`, with a small model in place of d30."""

from __future__ import annotations

import pytest

from lutvar.bench import host, host_parts
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.shape import TransformerShape
from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig


def small(shape: TransformerShape) -> tuple[Var, Vqvae]:
    config = VarConfig(
        depth=1, width=shape.width, heads=shape.heads, patch_nums=shape.patch_nums,
        num_classes=host.CLASSES, vocab=shape.vocab, z_channels=host.CHANNELS,
    )  # fmt: skip
    tokenizer = VqvaeConfig(
        vocab=shape.vocab, z_channels=host.CHANNELS, ch=32, patch_nums=shape.patch_nums
    )
    return Var(config).eval(), Vqvae(tokenizer).eval()


def test_every_part_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = TransformerShape(256, 2, 4, 1024, 512, (1, 2, 4))
    monkeypatch.setattr(TransformerShape, "official", lambda _name: shape)
    monkeypatch.setattr(host, "_models", small)
    monkeypatch.setattr(host, "RUNS", 1)
    monkeypatch.setattr(host, "TOP_K", 50)
    monkeypatch.setattr(host_parts, "RUNS", 1)
    monkeypatch.setattr(host_parts, "TOP_K", 50)
    monkeypatch.setattr(host_parts, "CONFIG", "small-fp4")
    monkeypatch.setattr(DecoderShape, "official", lambda: DecoderShape(8, 32, (1, 2), 2, 3, 4))
    lines = host.host_speed()
    compiling, _, image, sampling, bits, *_ = lines
    assert len(lines) == 10
    for line in lines:
        assert line.value is not None and line.value > 0, line.detail
        assert "of processor" in line.unit and line.how == "timed"
    assert sampling.target == 20 and bits.target is None
    assert (compiling.target, image.target) == (1.5, 0.15)
    assert compiling.detail["passes"] == 3
    assert set(image.detail) == {
        "embeddings ms", "driver and copies ms", "sampling ms", "feature map ms",
    }  # fmt: skip
    assert sum(image.detail.values()) == pytest.approx(1e3 * (image.value or 0))
