# SPDX-License-Identifier: Apache-2.0
"""Register words from their fields, and those that never change in a build."""

from typing import Any

from amaranth.hdl import Cat, Const, Value

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.register_map import BY_NAME, MAGIC, VERSION


def pack_fields(name: str, values: dict[str, Any]) -> Value:
    """A register word from the values of all its fields."""
    fields = {f.name: f for f in BY_NAME[name].fields}
    if set(fields) != set(values):
        raise ValueError(f"{name} has fields {sorted(fields)}, not {sorted(values)}")
    parts: list[Value] = []
    at = 0
    for item in sorted(fields.values(), key=lambda f: f.low):
        value = values[item.name]
        if isinstance(value, int):
            if not 0 <= value < 1 << item.width:
                raise ValueError(f"{name}.{item.name} = {value} needs over {item.width} bits")
            value = Const(value, item.width)
        parts += [Const(0, item.low - at), value]
        at = item.low + item.width
    return Cat(parts, Const(0, 32 - at))


def constants(config: AcceleratorConfig) -> dict[str, int]:
    """Values of the read-only registers that identify a build."""
    digest = accelerator_hash(config)
    caps = {
        "CAPS0": {
            "rows": config.rows, "code_bits": config.quant_config.code_bits,
            "kv_bits": config.kv.bits, "act_banks": config.act_banks,
            "acc_banks": config.acc_banks, "attention_rows": config.attention_rows,
        },
        "CAPS1": {
            "bank_groups": config.bank_groups, "acc_depth": config.acc_depth,
            "queue": config.queue,
        },
        "CAPS2": {
            "max_width": config.max_width, "max_keys": config.max_keys,
            "weight_ports": config.weight_ports, "max_sections": config.max_sections,
        },
    }  # fmt: skip
    return {
        "MAGIC": MAGIC, "VERSION": VERSION,
        "HASH_LO": digest & 0xFFFFFFFF, "HASH_HI": digest >> 32,
        **{name: Const.cast(pack_fields(name, values)).value for name, values in caps.items()},
    }  # fmt: skip
