# SPDX-License-Identifier: Apache-2.0
"""Programs that do not start, do not end, or end unheard: what the driver itself notices."""

from __future__ import annotations

from lutvar.contract.register_map import BY_NAME

from .device_status import DeviceSnapshot
from .errors import HostError


class ProgramTimeout(HostError):
    """The device reported no error, and has not finished in time: it says so itself.

    Attributes:
        what: what was waited for.
        cycles: the deadline in cycles of the device.
        snapshot: the registers at the time.
        seconds: the deadline on a board; None where time is counted in cycles.
    """

    def __init__(
        self, what: str, cycles: int, snapshot: DeviceSnapshot, seconds: float | None = None
    ) -> None:
        self.what, self.cycles, self.snapshot, self.seconds = what, cycles, snapshot, seconds
        time = f"{cycles} cycles" if seconds is None else f"{seconds:.3g} s"
        super().__init__(
            f"{what} not finished after {time}{_still(snapshot)}. "
            f"Call soft_reset() before the next program. {snapshot}"
        )


def _still(snapshot: DeviceSnapshot) -> str:
    """The state of the device when time was up."""
    if BY_NAME["STATE"].field_value(snapshot.state, "resetting"):
        return ""
    if BY_NAME["STATE"].field_value(snapshot.state, "settling"):
        return "; the memory still answers bursts from before the last reset"
    idle = BY_NAME["CTRL"].field_value(snapshot.ctrl, "idle")
    return "; the device is idle, it never started" if idle else "; the device still runs it"


class DeviceBusy(HostError):
    """A program still runs on the device, so another one cannot start."""


class MissedInterrupt(RuntimeWarning):
    """A program had finished, and its interrupt had not come."""
