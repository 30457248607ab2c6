# SPDX-License-Identifier: Apache-2.0
"""The model of a command that draws, and what computes its logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .common import note

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.host.decoder import OnnxDecoder
    from lutvar.quant.golden.decoder import QuantizedDecoder
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
        decoder: of the tokenizer at code level, to be packed with the transformer.
        on_device: the device decodes.
    """

    model: LoadedModel
    runs: Quantized | PackedTransformer | None
    decode: Callable[[Tensor], Tensor] | None
    decoder: QuantizedDecoder | None = None
    on_device: bool = False

    def packed(self) -> PackedTransformer:
        """What lies in the device's memory."""
        from lutvar.host.compile.pack import pack_transformer
        from lutvar.host.compile.packed import PackedTransformer

        if isinstance(self.runs, PackedTransformer):
            return self.runs
        runs = cast("Quantized", self.runs)
        return pack_transformer(runs.transformer, runs.config, decoder=self.decoder)

    @property
    def accelerator(self) -> str:
        """Name of the configuration."""
        from lutvar.host.compile.packed import PackedTransformer

        if isinstance(self.runs, PackedTransformer):
            return self.runs.layout.config.name
        return cast("Quantized", self.runs).config.name


def tensor_decoder(
    decode: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Callable[[Tensor], Tensor]:
    """A decoder of arrays as one of tensors."""
    import torch

    return lambda f_hat_BZHW: torch.from_numpy(decode(f_hat_BZHW.numpy()))


def with_onnx_decoder(loaded: Loaded, decode: OnnxDecoder) -> Loaded:
    """The same with a file's decoder. Raises BadInput for one of another tokenizer."""
    config = loaded.model.vqvae.config
    decode.check(config.z_channels, config.patch_nums[-1])
    return replace(loaded, decode=tensor_decoder(decode))


def with_device_decoder(loaded: Loaded, needed: bool) -> Loaded:
    """The same with its decoder on the device, where that has what it takes.

    Args:
        loaded: what a device runs.
        needed: it was asked for; otherwise a line on standard error says why not.

    Raises:
        ConfigError: it is needed, and accelerator or packed model do not have it.
        QuantizationError: a weight that the device cannot take.
    """
    from lutvar.contract.errors import ConfigError
    from lutvar.host.compile.packed import PackedTransformer
    from lutvar.quant.golden.decoder import decoder_for

    try:
        if isinstance(loaded.runs, PackedTransformer):
            if loaded.runs.decoder is None:
                raise ConfigError("the packed model has no decoder; pack it again to have one")
            return replace(loaded, on_device=True)
        config = cast("Quantized", loaded.runs).config
        decoder = decoder_for(loaded.model.vqvae, config)
    except ConfigError as error:
        if needed:
            raise
        note(f"decoding on this host: {error}")
        return loaded
    return replace(loaded, decoder=decoder, on_device=True)


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
