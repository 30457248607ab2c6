# SPDX-License-Identifier: Apache-2.0
"""Registers of the golden device that follow from the table and the configuration alone."""

from __future__ import annotations

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import BY_NAME, MAGIC, VERSION
from lutvar.contract.register_types import Register


def constants(config: AcceleratorConfig) -> dict[str, int]:
    """Values of the registers that identify a build."""
    digest = accelerator_hash(config)
    sizes = {
        "rows": config.rows, "code_bits": config.quant_config.code_bits,
        "kv_bits": config.kv.bits, "act_banks": config.act_banks, "acc_banks": config.acc_banks,
        "attention_rows": config.attention_rows, "bank_groups": config.bank_groups,
        "acc_depth": config.acc_depth, "queue": config.queue, "max_width": config.max_width,
        "max_keys": config.max_keys, "weight_ports": config.weight_ports,
        "max_sections": config.max_sections,
    }  # fmt: skip
    caps = {
        name: sum(sizes[f.name] << f.low for f in BY_NAME[name].fields)
        for name in ("CAPS0", "CAPS1", "CAPS2")
    }
    identity = {"MAGIC": MAGIC, "VERSION": VERSION, "HASH_LO": digest & 0xFFFF_FFFF}
    return {**identity, "HASH_HI": digest >> 32, **caps}


def writable(register: Register) -> int:
    """Bits that a write can change: those of the fields, or all without fields."""
    if not register.fields:
        return 0xFFFF_FFFF
    return sum((1 << f.width) - 1 << f.low for f in register.fields)
