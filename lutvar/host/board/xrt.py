# SPDX-License-Identifier: Apache-2.0
"""The `xrt` transport: memory from XRT's buffer objects, registers and interrupt through UIO.

`xrt:FILE.xclbin?memory=TAG&buffer=MIB&uio=NAME&device=N&clock=MHZ`. Its Python module has no access
to registers of a kernel that the user manages (XRT's C++ class `xrt::ip` is not bound), so they
come through UIO. The file may be left out where the fabric's xclbin is loaded already. Never tried
on a board; it runs against stand-ins with the signatures of `src/python/pybind11/src/pyxrt.cpp`.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from lutvar.contract.isa import ALIGN
from lutvar.host.errors import BadInput, HostError
from lutvar.host.open import Address

from .buffer import Direction, SyncedBuffer
from .errors import UnusableBuffer
from .files import Files
from .sysfs import UIO_NAME, find_uio
from .uio import DEFAULT_CLOCK_HZ, UioTransport

BUFFER_MIB = 1024


class XrtBuffer(SyncedBuffer):
    """A buffer object of XRT.

    Args:
        pyxrt: the module. bo: the buffer object.
        label: for errors.

    Raises:
        UnusableBuffer: misaligned.
    """

    def __init__(self, pyxrt: Any, bo: Any, label: str) -> None:
        self.label, self.coherent = label, False
        self.base, self.size = int(bo.address()), int(bo.size())
        if self.base % ALIGN:
            raise UnusableBuffer(
                f"buffer {label} starts at 0x{self.base:X}, which is no multiple of {ALIGN}; this "
                "memory bank cannot be used"
            )
        ways = pyxrt.xclBOSyncDirection
        self._ways = {
            Direction.TO_DEVICE: ways.XCL_BO_SYNC_BO_TO_DEVICE,
            Direction.FROM_DEVICE: ways.XCL_BO_SYNC_BO_FROM_DEVICE,
        }
        self._bo: Any = bo
        self._view = np.frombuffer(bo.map(), np.uint8)

    def _sync(self, name: str, start: int, end: int, direction: Direction) -> None:
        try:
            self._bo.sync(self._ways[direction], end - start, start)
        except RuntimeError as error:
            raise HostError(
                f"buffer {self.label}: XRT cannot synchronise bytes {start} to {end}: {error}; see "
                "dmesg"
            ) from error

    def close(self) -> None:
        """See `SyncedBuffer`: XRT frees a buffer object when nobody holds it."""
        self._view, self._bo = np.empty(0, np.uint8), None


def pyxrt_module() -> Any:
    """XRT's Python module. Raises HostError where it is not installed."""
    try:
        return import_module("pyxrt")
    except ImportError as error:
        raise HostError(
            f"pyxrt cannot be imported ({error}); it comes with XRT: source /opt/xilinx/xrt/"
            "setup.sh, with the Python that XRT was built for"
        ) from None


def choose_bank(banks: dict[str, int], wanted: str | None, label: str) -> tuple[str, int]:
    """Name and index of a memory bank; the only one if none is wanted. Raises BadInput."""
    known = ", ".join(sorted(banks)) or "none"
    if wanted is None and len(banks) == 1:
        return next(iter(banks.items()))
    if wanted is None:
        raise BadInput(f"{label}: several memory banks; choose one with memory=NAME: {known}")
    if wanted not in banks:
        raise BadInput(f"{label}: there is no memory bank {wanted!r}; there are: {known}")
    return wanted, banks[wanted]


def allocate(pyxrt: Any, address: Address) -> XrtBuffer:
    """The buffer that a URL asks for. Raises BadInput, HostError."""
    size = int(address.number("buffer", BUFFER_MIB) * (1 << 20))
    try:
        device = pyxrt.device(int(address.settings.get("device", "0")))
    except ValueError:
        raise BadInput(f"{address}: device is a number, the first one is 0") from None
    except RuntimeError as error:
        raise HostError(f"{address}: XRT opens no device: {error}; is zocl loaded?") from None
    label, group, owner = "of XRT", 0, device
    try:
        if address.target:
            xclbin = pyxrt.xclbin(address.target)
            banks = {m.get_tag(): m.get_index() for m in xclbin.get_mems() if m.get_used()}
            label, group = choose_bank(banks, address.settings.get("memory"), str(address))
            owner = pyxrt.hw_context(device, xclbin)
        bo = pyxrt.bo(owner, size, pyxrt.bo.flags.cacheable, group)
    except RuntimeError as error:
        raise HostError(
            f"{address}: XRT gives no buffer of {size >> 20} MiB: {error}; ask for less with "
            "buffer=MIB, or see dmesg"
        ) from error
    return XrtBuffer(pyxrt, bo, label)


def open_xrt(address: Address) -> UioTransport:
    """Open the buffer and the UIO device that a URL names; see the module."""
    address.allow("memory", "buffer", "uio", "device", "clock", "root")
    if address.target and not Path(address.target).is_file():
        raise BadInput(f"{address}: there is no such file; name an xclbin, or nothing at all")
    files = Files.under(address.root)
    uio = find_uio(files, address.settings.get("uio", UIO_NAME))  # first: it may be missing
    buffer = allocate(pyxrt_module(), address)
    clock = address.number("clock", (uio.clock_hz or DEFAULT_CLOCK_HZ) / 1e6) * 1e6
    try:
        return UioTransport(files, uio, buffer, clock, "xrt")
    except BaseException:
        buffer.close()
        raise
