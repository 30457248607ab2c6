# SPDX-License-Identifier: Apache-2.0
"""Host side: driver, transport, transformer and image decoder on a device."""

from .device import Device
from .device_decoder import DecodeReport, DeviceDecoder
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
    "DecodeReport",
    "Device",
    "DeviceBusy",
    "DeviceCounters",
    "DeviceDecoder",
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
