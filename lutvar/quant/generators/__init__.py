# SPDX-License-Identifier: Apache-2.0
"""The other autoregressive generators that PTQ4ARVG quantizes: RAR and PAR, in float.

A reading order: `config` (sizes), `blocks` (one block for both), `model` (passes), `rar` and `par`
(what is their own), `generate` (the loop), `tokenizers`, `checkpoint`.
"""

from .checkpoint import load_tokenizer, load_transformer, save_transformer
from .config import ParConfig, RarConfig, Sampling, TokenizerConfig
from .generate import TokenResult, generate_tokens, rows_of_image
from .model import TokenModel
from .par import Par
from .rar import Rar
from .tokenizers import Tokenizer

__all__ = [
    "Par",
    "ParConfig",
    "Rar",
    "RarConfig",
    "Sampling",
    "TokenModel",
    "TokenResult",
    "Tokenizer",
    "TokenizerConfig",
    "generate_tokens",
    "load_tokenizer",
    "load_transformer",
    "rows_of_image",
    "save_transformer",
]
