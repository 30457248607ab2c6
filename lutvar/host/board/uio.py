# SPDX-License-Identifier: Apache-2.0
"""The `uio` transport: registers and interrupt through UIO, memory through u-dma-buf.

`uio:NAME?buffer=NAME&clock=MHZ&root=FOLDER`, all of it optional. Never tried on a board; it runs
against the fake board (`lutvar.sim.fakeboard`), which replaces nothing of this file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time

from lutvar.host.errors import BadInput, HostError
from lutvar.host.open import Address
from lutvar.host.transport import Bytes, Clock

from .buffer import SyncedBuffer
from .files import Files
from .lock import Lock
from .probe import probe
from .registers import Registers
from .sysfs import BUFFER_NAME, UIO_NAME, BufferDevice, UioDevice, find_buffer, find_uio
from .udmabuf import DmaBuffer

#: Clock that deadlines are reckoned with when the device tree has none: slower than any build.
DEFAULT_CLOCK_HZ = 100e6
LEAST_SECONDS = 1.0  #: no deadline is shorter: the host itself may be late


class UioTransport:
    """`MemoryTransport` of a board under Linux.

    Args:
        files: of the board, or of a fake one.
        uio: what `sysfs` found.
        buffer: what `sysfs` found, or an open buffer of another kind, which is closed with this.
        clock_hz: of the device, for deadlines.
        scheme: for messages.

    Attributes:
        interrupts: that have come, since creation.

    Raises:
        DeviceInUse, NoPermission, UnusableBuffer, MappingFault, HostError.
    """

    clock: Clock

    def __init__(
        self,
        files: Files,
        uio: UioDevice,
        buffer: BufferDevice | SyncedBuffer,
        clock_hz: float = DEFAULT_CLOCK_HZ,
        scheme: str = "uio",
    ) -> None:
        self._files, self._clock_hz = files, clock_hz
        self.name, self.clock = f"{scheme}:{uio.name} ({uio.node})", "seconds"
        self.interrupts = 0
        with contextlib.ExitStack() as opened:
            lock = Lock(files, uio.registers, uio.node.name)
            opened.callback(lock.release)
            self._irq = files.open(uio.node, os.O_RDWR | os.O_SYNC)
            opened.callback(files.close, self._irq)
            page = os.sysconf("SC_PAGE_SIZE")
            length = -(-(uio.offset + uio.size) // page) * page
            words = files.words(self._irq, length, 0, uio.offset)  # map 0 begins at offset 0
            opened.callback(words.release)
            probe(words, self.name)
            self._registers = Registers(words, uio.size)
            if isinstance(buffer, BufferDevice):
                buffer = DmaBuffer(files, buffer)
            self._memory: SyncedBuffer = buffer
            opened.callback(self._memory.close)
            self.base, self.size = self._memory.base, self._memory.size
            self.arm()
            opened.callback(self._mask)
            self._opened = opened.pop_all()

    def read32(self, offset: int) -> int:
        """See `MemoryTransport`."""
        return self._registers.read(offset)

    def write32(self, offset: int, value: int) -> None:
        """See `MemoryTransport`."""
        self._registers.write(offset, value)

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        return self._memory.read(offset, count)

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        self._memory.write(offset, data)

    def arm(self) -> None:
        """See `MemoryTransport`."""
        while self._files.readable(self._irq, 0.0):
            self._take()
        self._enable(1)

    def wait(self, amount: float) -> bool:
        """See `MemoryTransport`. The kernel masks the line with each interrupt: unmask it first.

        A line that is high then interrupts at once, so nothing is lost in between.
        """
        if not self._files.readable(self._irq, 0.0):
            self._enable(1)
            if not self._files.readable(self._irq, amount):
                return False
        self._take()
        return True

    def now(self) -> float:
        """See `MemoryTransport`."""
        return time.monotonic()

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`."""
        return max(LEAST_SECONDS, cycles / self._clock_hz)

    def close(self) -> None:
        """See `MemoryTransport`."""
        self._opened.close()

    def _take(self) -> None:
        """Read the event count, which makes the file unreadable until the next event."""
        try:
            count = os.read(self._irq, 4)
        except OSError as error:
            raise HostError(
                f"{self.name}: the interrupt's file cannot be read: {error.strerror}; the device "
                "is gone"
            ) from error
        if len(count) < 4:
            raise HostError(f"{self.name}: the interrupt's file has ended; the device is gone")
        self.interrupts += 1

    def _enable(self, value: int) -> None:
        try:
            os.write(self._irq, value.to_bytes(4, "little"))
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ENOSYS):
                raise HostError(f"{self.name}: {error.strerror}; the device is gone") from error
            raise HostError(
                f"{self.name}: the kernel has no interrupt for it; give its device tree node "
                "`interrupts` and bind it to uio_pdrv_genirq"
            ) from error

    def _mask(self) -> None:
        with contextlib.suppress(HostError):
            self._enable(0)


def open_uio(address: Address) -> UioTransport:
    """Open the UIO device that a URL names, and its buffer; see the module."""
    address.allow("buffer", "clock", "root")
    if not address.root.is_dir():
        raise BadInput(f"{address}: root {address.root} is no folder; start the fake board first")
    files = Files.under(address.root)
    if type(files) is not Files:
        address.say(f"{address}: a fake board under {address.root}; no time is a board's")
    uio = find_uio(files, address.target or UIO_NAME)
    buffer = find_buffer(files, address.settings.get("buffer", BUFFER_NAME))
    clock = address.number("clock", (uio.clock_hz or DEFAULT_CLOCK_HZ) / 1e6)
    return UioTransport(files, uio, buffer, clock * 1e6)
