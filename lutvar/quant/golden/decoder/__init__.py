# SPDX-License-Identifier: Apache-2.0
"""The tokenizer's decoder at code level: latent maps to pixels (contract, section 14).

Reading order: `lutvar/contract/decoder.py` (the steps), `maps`, `weights`, `convolution`, `norm`,
`lutvar/contract/decoder_host.py` (vectors, attention, pixels), `quantized`, `decoder`.
"""

from .decoder import GoldenDecoder
from .quantized import QuantizedDecoder, decoder_for, decoder_shape, quantize_decoder

__all__ = ["GoldenDecoder", "QuantizedDecoder", "decoder_for", "decoder_shape", "quantize_decoder"]
