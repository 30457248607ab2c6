# SPDX-License-Identifier: Apache-2.0
"""Which of the accelerators that come with lutvar a device is, by the hash in its registers."""

from __future__ import annotations

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.quant_preset import preset_names

from .device_status import ReadRegister


def device_hash(read: ReadRegister) -> int:
    """The hash of the configuration that a device was built from."""
    return read("HASH_LO") | read("HASH_HI") << 32


def shipped_accelerator(hash_: int) -> AcceleratorConfig | None:
    """The configuration with a hash; None where none that ships has it."""
    every = map(load_accelerator, preset_names("accelerator"))
    return next((config for config in every if accelerator_hash(config) == hash_), None)
