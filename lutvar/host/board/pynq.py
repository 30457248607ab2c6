# SPDX-License-Identifier: Apache-2.0
"""The `pynq` transport: PYNQ loads the fabric, maps the registers and allocates the memory.

`pynq:FILE?ip=NAME&memory=BANK&buffer=MIB&download=0&clock=MHZ`; FILE has its .hwh beside it. PYNQ 4
is the first release for Versal. Memory comes from the bank that is named, and the address is
compared with that bank's: without the bank's node in the device tree PYNQ gives other memory and
says nothing. A buffer's own `flush` and `invalidate` are not enough: since PYNQ 3.1 they
synchronise all of the buffer object whatever slice they are called on, so the buffer object is
asked for the range itself. PYNQ brings no interrupt for a line without AXI interrupt controller:
ISR is polled instead. Never tried on a board; it runs against stand-ins with PYNQ's signatures.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from lutvar.contract.isa import ALIGN
from lutvar.contract.register_map import BY_NAME
from lutvar.host.errors import BadInput, HostError
from lutvar.host.open import Address
from lutvar.host.transport import Bytes, Clock

from .buffer import Direction, SyncedBuffer
from .errors import UnusableBuffer
from .files import Files
from .lock import Lock
from .uio import DEFAULT_CLOCK_HZ, LEAST_SECONDS
from .xrt import BUFFER_MIB, choose_bank, pyxrt_module

IP_NAME = "accelerator"  #: of the block design's cell
_LEAST, _MOST = 50e-6, 2e-3  #: seconds between two looks at ISR
_ISR = BY_NAME["ISR"].offset


class PynqBuffer(SyncedBuffer):
    """A buffer of `pynq.allocate`.

    Args:
        array: what `allocate` returned, uint8.
        label: for errors.
        bank: first address and bytes of the bank that was asked for.

    Raises:
        UnusableBuffer: misaligned, or outside the bank.
    """

    def __init__(self, array: Any, label: str, bank: tuple[int, int]) -> None:
        self.label, self.coherent = label, bool(array.coherent)
        self.base, self.size = int(array.device_address), int(array.nbytes)
        if self.base % ALIGN:
            raise UnusableBuffer(
                f"buffer {label} starts at 0x{self.base:X}, which is no multiple of {ALIGN}; "
                "allocate again, or take another bank"
            )
        first, size = bank
        if not first <= self.base <= self.base + self.size <= first + size:
            raise UnusableBuffer(
                f"PYNQ gave memory at 0x{self.base:X}, not of {label} at 0x{first:X}; its node is "
                "missing in the device tree"
            )
        self._array: Any = array
        self._view = np.asarray(array).view(np.ndarray).reshape(-1)
        # PYNQ 3.1 and later have XRT's buffer objects; earlier ones synchronise slices rightly.
        self._ways: dict[Direction, Any] | None = None
        if hasattr(array.bo, "sync"):
            ways = pyxrt_module().xclBOSyncDirection
            self._ways = {
                Direction.TO_DEVICE: ways.XCL_BO_SYNC_BO_TO_DEVICE,
                Direction.FROM_DEVICE: ways.XCL_BO_SYNC_BO_FROM_DEVICE,
            }

    def _sync(self, name: str, start: int, end: int, direction: Direction) -> None:
        try:
            if self._ways is not None:
                offset = self._array.offset + start
                self._array.bo.sync(self._ways[direction], end - start, offset)
            elif direction is Direction.TO_DEVICE:
                self._array[start:end].flush()
            else:
                self._array[start:end].invalidate()
        except RuntimeError as error:
            raise HostError(
                f"buffer {self.label}: bytes {start} to {end} cannot be synchronised: {error}; see "
                "dmesg"
            ) from error

    def close(self) -> None:
        """See `SyncedBuffer`."""
        array, self._array, self._view = self._array, None, np.empty(0, np.uint8)
        if array is not None:
            array.freebuffer()


class PynqTransport:
    """`MemoryTransport` over a PYNQ overlay.

    Args:
        mmio: registers, `pynq.MMIO`. buffer: memory.
        lock: held until `close`.
        name: for messages. clock_hz: of the device, for deadlines.
    """

    clock: Clock

    def __init__(
        self, mmio: Any, buffer: SyncedBuffer, lock: Lock, name: str, clock_hz: float
    ) -> None:
        self._mmio, self._memory, self._lock = mmio, buffer, lock
        self._clock_hz = clock_hz
        self.name, self.clock = name, "seconds"
        self.base, self.size = buffer.base, buffer.size

    def read32(self, offset: int) -> int:
        """See `MemoryTransport`."""
        return int(self._mmio.read(self._inside(offset)))

    def write32(self, offset: int, value: int) -> None:
        """See `MemoryTransport`."""
        self._mmio.write(self._inside(offset), int(value))

    def _inside(self, offset: int) -> int:
        if offset % 4 or not 0 <= offset <= self._mmio.length - 4:
            raise BadInput(
                f"register offset 0x{offset:X}; offsets are multiples of 4 under "
                f"0x{self._mmio.length:X}"
            )
        return int(offset)

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        return self._memory.read(offset, count)

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        self._memory.write(offset, data)

    def arm(self) -> None:
        """See `MemoryTransport`: ISR is read itself, there is nothing to forget."""

    def wait(self, amount: float) -> bool:
        """See `MemoryTransport`; looks at ISR, more and more seldom."""
        end, pause = self.now() + amount, _LEAST
        while not self.read32(_ISR):
            left = end - self.now()
            if left <= 0:
                return False
            time.sleep(min(pause, left))
            pause = min(2 * pause, _MOST)
        return True

    def now(self) -> float:
        """See `MemoryTransport`."""
        return time.monotonic()

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`."""
        return max(LEAST_SECONDS, cycles / self._clock_hz)

    def close(self) -> None:
        """See `MemoryTransport`. The fabric stays loaded."""
        self._memory.close()
        self._lock.release()


def _module() -> Any:
    try:
        return import_module("pynq")
    except ImportError as error:
        raise HostError(
            f"pynq cannot be imported ({error}); use the Python environment of a PYNQ 4 image"
        ) from None


def _registers(overlay: Any, name: str, label: str) -> dict[str, Any]:
    """The entry of the accelerator in `ip_dict`: of that name, or the only one that ends so."""
    names = [n for n in overlay.ip_dict if n == name] or [
        n for n in overlay.ip_dict if n.rpartition("/")[2] == name
    ]
    if len(names) != 1:
        known = ", ".join(sorted(overlay.ip_dict)) or "none"
        raise BadInput(f"{label}: there is no single IP {name!r}; name it with ip=NAME: {known}")
    entry: dict[str, Any] = overlay.ip_dict[names[0]]
    return entry


@contextlib.contextmanager
def _loading(address: Address) -> Iterator[None]:
    """What PYNQ raises about an image, as HostError."""
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        raise HostError(f"{address}: PYNQ cannot load it: {error}") from error


def open_pynq(address: Address) -> PynqTransport:
    """Load the overlay that a URL names, and allocate its buffer; see the module.

    The fabric is loaded when all that the URL says is right and nobody else has the device.
    """
    address.allow("ip", "memory", "buffer", "download", "clock", "root")
    if not address.target:
        raise BadInput(f"{address}: name the image, as pynq:lutvar.pdi; its .hwh lies beside it")
    size = int(address.number("buffer", BUFFER_MIB) * (1 << 20))
    clock = address.number("clock", DEFAULT_CLOCK_HZ / 1e6) * 1e6
    pynq = _module()
    with _loading(address):
        # Only read here: another process may be running on the fabric that is there.
        overlay = pynq.Overlay(address.target, download=False)
    entry = _registers(overlay, address.settings.get("ip", IP_NAME), str(address))
    first = int(entry["phys_addr"])
    banks = {
        name: i for i, (name, bank) in enumerate(overlay.mem_dict.items())
        if bank.get("used") and "base_address" in bank
    }  # fmt: skip
    bank, _ = choose_bank(banks, address.settings.get("memory"), str(address))
    where = overlay.mem_dict[bank]
    with contextlib.ExitStack() as opened:
        lock = Lock(Files.under(address.root), first, f"accelerator at 0x{first:X}")
        opened.callback(lock.release)
        if address.settings.get("download", "1") != "0":
            with _loading(address):
                overlay.download()
        try:
            target = overlay.device.get_memory(where)
            array = pynq.allocate((size,), np.uint8, target=target, cacheable=1)
        except RuntimeError as error:
            raise HostError(
                f"{address}: no buffer of {size >> 20} MiB in {bank}: {error}; ask for less with "
                "buffer=MIB"
            ) from error
        buffer = PynqBuffer(array, bank, (int(where["base_address"]), int(where["size"])))
        opened.callback(buffer.close)
        try:
            mmio = pynq.MMIO(first, int(entry["addr_range"]))
        except OSError as error:
            raise HostError(
                f"{address}: registers cannot be mapped: {error}; run as root"
            ) from error
        opened.pop_all()
        return PynqTransport(mmio, buffer, lock, f"pynq:{address.target} ({bank})", clock)
