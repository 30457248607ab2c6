# SPDX-License-Identifier: Apache-2.0
"""Host side: driver, transports, weight packing, and the backend that runs a VAR on a device."""

from .driver import Accelerator
from .errors import (
    BadInput,
    BusError,
    DeviceError,
    DeviceTimeout,
    FrameError,
    HostError,
    IncompatibleDevice,
    PackedFileError,
    TransferTimeout,
)
from .packed import LayerArgs, PackedLinear, PackedModel, pack_linear
from .packing import DumpedCodes
from .status import Counters, Snapshot
from .transport import Stream, Transfer, Transport

__all__ = [
    "Accelerator",
    "BadInput",
    "BusError",
    "Counters",
    "DeviceError",
    "DeviceTimeout",
    "DumpedCodes",
    "FrameError",
    "HostError",
    "IncompatibleDevice",
    "LayerArgs",
    "PackedFileError",
    "PackedLinear",
    "PackedModel",
    "Snapshot",
    "Stream",
    "Transfer",
    "TransferTimeout",
    "Transport",
    "pack_linear",
]
