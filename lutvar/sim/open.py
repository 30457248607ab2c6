# SPDX-License-Identifier: Apache-2.0
"""`sim:CONFIG` for `lutvar.host.open`: the exported Verilog, simulated, behind the seam."""

from __future__ import annotations

from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.host.errors import BadInput
from lutvar.host.open import Address
from lutvar.hw.accelerator.export import export

from .device import VerilatedDevice
from .memory import MEMORY_MIB
from .transport import SimulatedMemory


def chosen(address: Address) -> AcceleratorConfig:
    """The configuration that a URL names, or else the one that the caller expects."""
    if address.target:
        return load_accelerator(address.target)
    if address.config is None:
        raise BadInput(f"{address}: name a configuration, such as {address.scheme}:small-fp4")
    return address.config


def open_sim(address: Address) -> SimulatedMemory:
    """Export and build the simulation (or find it in the cache), and open it.

    Settings: `memory` in MiB, `out`: folder of the Verilog (build/verilog).
    """
    address.allow("memory", "out")
    config = chosen(address)
    address.say(f"building the simulation of {config.name} (kept for the next time)")
    manifest = export(config, Path(address.settings.get("out", "build/verilog")))
    size = int(address.number("memory", MEMORY_MIB) * (1 << 20))
    return SimulatedMemory(VerilatedDevice.from_verilog(manifest.verilog, size))
