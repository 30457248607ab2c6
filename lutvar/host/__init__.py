# SPDX-License-Identifier: Apache-2.0
"""Host side: driver, transport, and the transformer on a device."""

from .device import Device
from .device_errors import DeviceBusy, MissedInterrupt, ProgramTimeout
from .device_status import AcceleratorError, DeviceCounters, DeviceSnapshot
from .errors import BadInput, BusError, HostError, IncompatibleDevice
from .open import open_transport
from .session import Session
from .transformer import DeviceTransformer, PassReport
from .transport import MemoryTransport

__all__ = [
    "AcceleratorError",
    "BadInput",
    "BusError",
    "Device",
    "DeviceBusy",
    "DeviceCounters",
    "DeviceSnapshot",
    "DeviceTransformer",
    "HostError",
    "IncompatibleDevice",
    "MemoryTransport",
    "MissedInterrupt",
    "PassReport",
    "ProgramTimeout",
    "Session",
    "open_transport",
]
