# SPDX-License-Identifier: Apache-2.0
"""The model of a command that draws, and what computes its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor

    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.quant.models import LoadedModel
    from lutvar.quant.runnable import Quantized
    from lutvar.quant.var import Vqvae


@dataclass(frozen=True)
class Loaded:
    """A model ready to draw with.

    Attributes:
        model: float; embeds and decodes.
        runs: what computes the logits; None: the float model itself.
        decode: instead of the tokenizer's decoder.
    """

    model: LoadedModel
    runs: Quantized | PackedTransformer | None
    decode: Callable[[Tensor], Tensor] | None

    def packed(self) -> PackedTransformer:
        """What lies in the device's memory."""
        from lutvar.host.compile.pack import pack_transformer
        from lutvar.host.compile.packed import PackedTransformer

        if isinstance(self.runs, PackedTransformer):
            return self.runs
        runs = cast("Quantized", self.runs)
        return pack_transformer(runs.transformer, runs.config)

    @property
    def accelerator(self) -> str:
        """Name of the configuration."""
        from lutvar.host.compile.packed import PackedTransformer

        if isinstance(self.runs, PackedTransformer):
            return self.runs.layout.config.name
        return cast("Quantized", self.runs).config.name


def onnx_decoder(path: Path) -> Callable[[Tensor], Tensor]:
    """ONNX Runtime's decoder."""
    import torch

    from lutvar.host.decoder import OnnxDecoder

    decoder = OnnxDecoder(path)
    return lambda f_hat_BZHW: torch.from_numpy(decoder(f_hat_BZHW.numpy()))


def golden_decoder(vqvae: Vqvae, config: str) -> Callable[[Tensor], Tensor]:
    """The decoder at code level, in the formats of an accelerator."""
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.quant.golden.decoder import GoldenDecoder, quantize_decoder

    return GoldenDecoder(quantize_decoder(vqvae, load_accelerator(config).quant_config))


def packed_file(path: Path, model: str, config: str) -> tuple[LoadedModel, PackedTransformer]:
    """The float model and its packed image; ValueError when they do not belong together."""
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.quant.methods.recipes.files import fingerprint
    from lutvar.quant.models import load_model

    packed = PackedTransformer.load(path, load_accelerator(config))
    loaded = load_model(model)
    if packed.model.get("fingerprint") != fingerprint(loaded.var):
        raise ValueError(
            f"{path}: packed of model {packed.model.get('model', 'without a name')!r}, not of "
            f"{model}; give that one with --model"
        )
    return loaded, packed
