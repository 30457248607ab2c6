# SPDX-License-Identifier: Apache-2.0
"""The hash that ties gateware, packed weights and driver together.

It covers everything that must agree: contract version, sizes, number formats, sign vector, register
map, instructions, tables. The driver compares it with HASH_LO/HASH_HI before the first program,
and the sequencer with the header of each program.
"""

from __future__ import annotations

import hashlib

from lutvar.files import json_text

from . import functions, isa, register_map
from .accelerator import AcceleratorConfig
from .hadamard import sign_vector
from .quant_preset import GROUP


def accelerator_identity(config: AcceleratorConfig) -> dict[str, object]:
    """Everything that the hash of a whole accelerator covers, as plain data."""
    quant = config.quant_config
    dual = quant.dual_format
    sizes = config.model_dump(exclude={"name", "quant"})
    return {
        "version": register_map.VERSION,
        "group": GROUP,
        "accelerator": sizes,
        "weight": quant.weight_format.as_dict(),
        "activation": quant.plain_format.as_dict(),
        "dual": dual.as_dict() if dual else None,
        "kv": config.kv.as_dict(),
        "ties": quant.ties,
        "signs": "".join("+" if s > 0 else "-" for s in sign_vector(quant.hadamard_seed)),
        "instructions": isa.as_json(),
        "functions": functions.as_json(),
        "registers": register_map.as_json(),
    }


def accelerator_hash(config: AcceleratorConfig) -> int:
    """64-bit hash of an accelerator; programs carry it and the sequencer checks it."""
    return _digest(accelerator_identity(config))


def _digest(identity: dict[str, object]) -> int:
    """The first 8 bytes of SHA-256 of the canonical JSON, big-endian."""
    text = json_text(identity, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
