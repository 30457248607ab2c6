# SPDX-License-Identifier: Apache-2.0
"""The VQVAE decoder as an ONNX file, for a host without PyTorch."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lutvar.files import rendered, write_file
from lutvar.host.decoder import INPUT, OUTPUT
from lutvar.quant.var import Vqvae

OPSET = 17  #: ONNX Runtime 1.12 and later read it


class _ToImage(nn.Module):
    """The part of a tokenizer that makes an image of a latent map."""

    def __init__(self, vqvae: Vqvae) -> None:
        super().__init__()
        self.vqvae = vqvae

    def forward(self, f_hat_BZHW: Tensor) -> Tensor:
        return self.vqvae.to_image(f_hat_BZHW)


def write_decoder(vqvae: Vqvae, path: str | Path) -> None:
    """Write the graph for one image: input `latent` [1, Z, p, p], output `image` in [0, 1].

    Raises:
        OutputError: see `lutvar.files.write_file`.
    """
    side, channels = vqvae.quantize.patch_nums[-1], vqvae.quantize.z_channels
    latent = torch.zeros(1, channels, side, side, dtype=torch.float32)

    def export(file: object) -> None:
        # The exporter that needs no further package; newer releases of PyTorch call it old.
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _ToImage(vqvae).eval(), (latent,), file,  # type: ignore[arg-type]
                input_names=[INPUT], output_names=[OUTPUT], opset_version=OPSET, dynamo=False,
            )  # fmt: skip

    write_file(path, rendered(export))
