# SPDX-License-Identifier: Apache-2.0
"""The VAR model in PyTorch: transformer, tokenizer, generation, checkpoints."""

from .checkpoint import CheckpointError, load_var, load_vqvae, save_model
from .config import ConfigError, VarConfig, VqvaeConfig
from .editing import encode_edits
from .generate import GenerationResult, generate
from .model import Var
from .sites import SITE_NAMES, FloatLinear, LinearBackend, LinearSite
from .vqvae import Vqvae

__all__ = [
    "SITE_NAMES",
    "CheckpointError",
    "ConfigError",
    "FloatLinear",
    "GenerationResult",
    "LinearBackend",
    "LinearSite",
    "Var",
    "VarConfig",
    "Vqvae",
    "VqvaeConfig",
    "encode_edits",
    "generate",
    "load_var",
    "load_vqvae",
    "save_model",
]
