# SPDX-License-Identifier: Apache-2.0
"""The decoder without PyTorch gives PyTorch's images."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.host.decoder import OnnxDecoder
from lutvar.host.errors import BadInput
from lutvar.quant.models import load_model
from lutvar.sim.run.decoder_file import write_decoder


@pytest.mark.parametrize("model", ["digits", "cifar10"])
def test_the_same_images(model: str, tmp_path: Path) -> None:
    vqvae = load_model(model).vqvae
    path = tmp_path / "decoder.onnx"
    write_decoder(vqvae, path)
    config = vqvae.config
    shape = (3, config.z_channels, config.patch_nums[-1], config.patch_nums[-1])
    latents = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        right = vqvae.to_image(torch.from_numpy(latents)).numpy()
    images = OnnxDecoder(path, threads=1)(latents)
    assert images.dtype == np.float32 and images.min() >= 0 and images.max() <= 1
    assert np.ptp(right) > 0.5
    np.testing.assert_allclose(images, right, atol=1e-4)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    for path in (tmp_path / "x.onnx", tmp_path / "missing.onnx"):
        with pytest.raises(BadInput, match="--decoder"):
            OnnxDecoder(path)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match="onnxruntime"):
        OnnxDecoder("x.onnx")
