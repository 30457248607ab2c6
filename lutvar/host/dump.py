# SPDX-License-Identifier: Apache-2.0
"""Everything that a device says about itself in one JSON file, for a bug report."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import lutvar
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import UNITS
from lutvar.contract.register_map import BY_NAME, REGISTERS
from lutvar.contract.register_types import Access
from lutvar.files import json_text, write_file

from .device import Device
from .device_status import DeviceSnapshot
from .errors import HostError

FORMAT = "lutvar-dump-1"


def dump_data(device: Device, error: BaseException | None = None) -> dict[str, Any]:
    """Registers, program position, queues, transport and versions.

    Reading CTRL clears its done bit; nothing else changes. A register that cannot be read has the
    reason in its place.
    """
    transport = device.transport
    registers: dict[str, str] = {}
    values: dict[str, int] = {}
    for register in REGISTERS:
        if register.access is Access.WO:
            continue
        try:
            values[register.name] = transport.read32(register.offset)
            registers[register.name] = f"0x{values[register.name]:08X}"
        except HostError as failure:
            registers[register.name] = str(failure)
    state = values.get("STATE", 0)

    def bits(unit: str) -> dict[str, bool]:
        names = ("busy", "active", "empty", "waits", "incomplete")
        field = BY_NAME["STATE"].field_value
        return {name: bool(field(state, f"{name}_{unit.lower()}")) for name in names}

    return {
        "format": FORMAT,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "error": None if error is None else {"type": type(error).__name__, "text": str(error)},
        "accelerator": {
            "name": device.config.name, "hash": f"{accelerator_hash(device.config):016x}",
        },
        "transport": {
            "name": transport.name, "base": f"0x{transport.base:X}", "bytes": transport.size,
            "clock": transport.clock, "now": transport.now(),
            "missed_interrupts": device.missed_interrupts,
        },
        "program": {
            "address": values.get("PROGRAM_LO", 0) | values.get("PROGRAM_HI", 0) << 32,
            "complete": {u.name: values.get(f"INSTRUCTIONS_{u.name}") for u in UNITS},
        },
        # The device tells whether a queue is empty, not how many instructions wait in it.
        "units": {u.name: bits(u.name) for u in UNITS},
        "state": DeviceSnapshot.names("STATE", state),
        "ports": DeviceSnapshot.names("PORTS", values.get("PORTS", 0)),
        "registers": registers,
        "versions": {
            "lutvar": lutvar.__version__, "python": platform.python_version(),
            "numpy": np.__version__, "kernel": platform.release(), "machine": platform.machine(),
        },
    }  # fmt: skip


def dump(device: Device, path: str | Path, error: BaseException | None = None) -> None:
    """Write `dump_data` to a file. Raises OutputError."""
    write_file(path, [json_text(dump_data(device, error), indent=2).encode()])
