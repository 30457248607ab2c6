# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a host and the accelerator, one exception for each cause.

All derive from `HostError`, so a caller can catch the family; each carries the values that it
reports as attributes, so a program can act on them without parsing text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lutvar.contract.registers import ErrorCode

if TYPE_CHECKING:
    from .status import Snapshot

_RESPONSES = {0: "OKAY", 1: "EXOKAY", 2: "SLVERR", 3: "DECERR"}

#: What each error code means for the user: cause and next step.
_EXPLANATIONS = {
    ErrorCode.BAD_ARGUMENT: "a job argument is out of range; ERROR_INFO is its register offset",
    ErrorCode.FRAME_ACT: "TLAST on s_axis_act is not where the arguments put it; ERROR_INFO counts "
    "the beats received in this job",
    ErrorCode.FRAME_WGT: "TLAST on s_axis_wgt is not where the arguments put it; ERROR_INFO counts "
    "the beats received in this job",
    ErrorCode.NONFINITE: "an activation is infinite or NaN; ERROR_INFO is its group index",
    ErrorCode.STALL: "no progress for WATCHDOG cycles; ERROR_INFO is STATE at that moment",
}


class HostError(Exception):
    """Base of everything that this package raises about a device."""


class BusError(HostError):
    """A register access was refused on the bus.

    Attributes:
        operation: "read" or "write".
        address: byte offset in the control aperture.
        resp: AXI response, 2 for SLVERR and 3 for DECERR; None when no answer came.
    """

    def __init__(self, operation: str, address: int, resp: int | None) -> None:
        self.operation, self.address, self.resp = operation, address, resp
        access = f"{operation} of register offset 0x{address:03X}"
        if resp is None:
            text = f"{access}: no answer; check that the clock runs and the reset is released"
        else:
            name = _RESPONSES.get(resp, f"response {resp}")
            text = (
                f"{access} was answered with {name}; the register does not exist in this build "
                "or does not allow this access (see docs/registers.md)"
            )
        super().__init__(text)


class TransferTimeout(HostError):
    """Stream transfers did not finish within the cycles given.

    Attributes:
        cycles: the limit, cycles of the device clock.
        pending: (stream, bytes done, bytes wanted) of each unfinished transfer.
    """

    def __init__(self, cycles: int, pending: Sequence[tuple[str, int, int]]) -> None:
        self.cycles, self.pending = cycles, tuple(pending)
        rest = ", ".join(f"{s}: {done} of {total} bytes" for s, done, total in self.pending)
        super().__init__(f"transfers unfinished after {cycles} cycles ({rest})")


class FrameError(HostError):
    """The result stream ended (TLAST) at another place than the job's arguments imply.

    Attributes:
        expected: bytes of the packet.
        found: bytes up to TLAST; None when the last byte came without it.
    """

    def __init__(self, stream: str, expected: int, found: int | None) -> None:
        self.stream, self.expected, self.found = stream, expected, found
        where = f"TLAST after {found} bytes" if found is not None else "no TLAST"
        super().__init__(
            f"{stream}: {where}, expected after {expected} bytes; the host's packing and the "
            "device's configuration disagree, or a transfer was cut"
        )


class IncompatibleDevice(HostError):
    """The device is not the one that the host was set up for.

    Attributes:
        register: name of the register (and field) that differs.
        expected, found: both values.
    """

    def __init__(self, register: str, expected: int, found: int, advice: str) -> None:
        self.register, self.expected, self.found = register, expected, found
        super().__init__(f"{register} is 0x{found:X}, expected 0x{expected:X}: {advice}")


class DeviceError(HostError):
    """The device stopped with an error; it stays halted until a soft reset.

    Attributes:
        code: ErrorCode, or the bare number when it is unknown to this version.
        info: ERROR_INFO.
        snapshot: the registers at the time.
    """

    def __init__(self, code: int, info: int, snapshot: Snapshot) -> None:
        self.code: int | ErrorCode
        try:
            self.code = ErrorCode(code)
            name, meaning = self.code.name, _EXPLANATIONS.get(self.code, "")
        except ValueError:
            self.code, name, meaning = code, "unknown", "a code that this version does not know"
        self.info, self.snapshot = info, snapshot
        super().__init__(
            f"device error {code} ({name}), info 0x{info:X}: {meaning}. "
            f"Call soft_reset() before the next job. {snapshot}"
        )


class DeviceTimeout(HostError):
    """The device reported no error, but did not finish in time.

    Attributes:
        what: what was waited for.
        cycles: the deadline, cycles of the device clock.
        snapshot: the registers at the time.
    """

    def __init__(self, what: str, cycles: int, snapshot: Snapshot) -> None:
        self.what, self.cycles, self.snapshot = what, cycles, snapshot
        super().__init__(
            f"{what} not finished after {cycles} cycles. "
            f"Call soft_reset() before the next job. {snapshot}"
        )


class BadInput(HostError, ValueError):
    """Rows or a layer that cannot be sent; nothing has reached the device."""


class PackedFileError(HostError, ValueError):
    """A packed-weight file that cannot be used; the text says what was found and what to do."""
