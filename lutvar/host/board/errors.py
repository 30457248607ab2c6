# SPDX-License-Identifier: Apache-2.0
"""Why a board cannot be opened or used: one exception for each cause, with its cure."""

from __future__ import annotations

from lutvar.host.errors import HostError


class NoDevice(HostError):
    """Nothing of that name; the message lists what is there.

    Attributes:
        name: what was looked for.
        present: names that were found instead.
    """

    def __init__(self, kind: str, name: str, present: list[str], advice: str) -> None:
        self.name, self.present = name, present
        there = ", ".join(present) or "nothing"
        super().__init__(f"there is no {kind} {name!r}, only {there}; {advice}")


class ModuleMissing(HostError):
    """The kernel has no driver for it.

    Attributes:
        module: name of the kernel module.
    """

    def __init__(self, module: str, advice: str) -> None:
        self.module = module
        super().__init__(f"kernel module {module} is not loaded; {advice}")


class NoPermission(HostError):
    """A file of the device may not be opened by this user."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path}: permission denied; run as root, or install the udev rules of docs/vck190.md "
            "and log in again"
        )


class DeviceInUse(HostError):
    """Another process has the device; it is free when that process ends, however it ends.

    Attributes:
        pid: of that process, or None when it has not said.
    """

    def __init__(self, device: str, pid: int | None) -> None:
        self.pid = pid
        owner = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{device} is in use by {owner}; wait for it, or end it")


class UnusableBuffer(HostError):
    """The device cannot work with this memory."""


class MappingFault(HostError):
    """A first access to mapped registers killed or stopped the process that tried it.

    Attributes:
        signal: that killed it, or None when it hung.
    """

    def __init__(self, device: str, signal: int | None) -> None:
        self.signal = signal
        what = "hangs" if signal is None else f"ends with signal {signal}"
        super().__init__(
            f"{device}: reading a register {what}; nothing answers at this address: check that the "
            "image is loaded, that the PL clock runs (kernel argument clk_ignore_unused) and that "
            "the address in the device tree is the block design's"
        )
