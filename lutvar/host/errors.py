# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a host and the accelerator, one exception for each cause.

All derive from `HostError`, so a caller can catch the family; each carries the values that it
reports as attributes, so a program can act on them without parsing text.
"""

from __future__ import annotations

_RESPONSES = {0: "OKAY", 1: "EXOKAY", 2: "SLVERR", 3: "DECERR"}


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


class IncompatibleDevice(HostError):
    """The device is not the one that the host was set up for.

    Attributes:
        register: name of the register (and field) that differs.
        expected, found: both values.
    """

    def __init__(self, register: str, expected: int, found: int, advice: str) -> None:
        self.register, self.expected, self.found = register, expected, found
        super().__init__(f"{register} is 0x{found:X}, expected 0x{expected:X}: {advice}")


class UnknownAccelerator(HostError):
    """The device has the hash of no accelerator that ships.

    Attributes:
        hash: of its configuration.
    """

    def __init__(self, hash_: int) -> None:
        self.hash = hash_
        super().__init__(
            f"no accelerator that ships has the device's hash {hash_:016x}; name the file of its "
            "configuration (--config FILE)"
        )


class BadInput(HostError, ValueError):
    """Something that cannot be sent to the device; nothing has reached it."""
