# SPDX-License-Identifier: Apache-2.0
"""Host side: driver, transport, and the transformer on a device."""

from .device import Device, ProgramTimeout
from .device_status import AcceleratorError, DeviceCounters, DeviceSnapshot
from .device_transformer import DeviceTransformer, PassReport
from .errors import BadInput, BusError, HostError, IncompatibleDevice
from .memory_transport import MemoryTransport, SimulatedMemory

__all__ = [
    "AcceleratorError",
    "BadInput",
    "BusError",
    "Device",
    "DeviceCounters",
    "DeviceSnapshot",
    "DeviceTransformer",
    "HostError",
    "IncompatibleDevice",
    "MemoryTransport",
    "PassReport",
    "ProgramTimeout",
    "SimulatedMemory",
]
