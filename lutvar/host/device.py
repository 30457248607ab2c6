# SPDX-License-Identifier: Apache-2.0
"""The driver of the whole accelerator: identity check, memory, programs, deadlines, errors.

with Device(transport, config) as device:
    device.place(model_bytes, work, io, cache)
    counters = device.run(program)
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import ALIGN, INSTRUCTION_BYTES, Region
from lutvar.contract.register_map import BY_NAME, MAGIC, VERSION
from lutvar.files import OutputError

from .device_errors import DeviceBusy, MissedInterrupt, ProgramTimeout
from .device_status import AcceleratorError, DeviceCounters, DeviceSnapshot
from .errors import BadInput, HostError, IncompatibleDevice
from .kept import MARKER_BYTES, forget, place_kept
from .load import Progress, chunks_of, load
from .shipped import device_hash, shipped_accelerator
from .transport import POLL, SLICE, Bytes, MemoryTransport
from .turns import Stopped, Turns

PAGE = 4096


@dataclass(frozen=True)
class Regions:
    """Offsets of the regions in the driver's memory, and of the program after them."""

    starts: dict[Region, int]
    sizes: dict[Region, int]
    program: int


class Device:
    """One accelerator, used by one thread at a time.

    Each call of `write`, `read` and `run` is a turn of its own; a thread that needs several of them
    together, while others use the device, takes `turns` around them.

    Args:
        transport: access to the device; the driver does not close it.
        config: what the device must be.
        grace: cycles for register waits (reset, start).
        watchdog: cycles without progress before the device reports WATCHDOG; None: its default.

    Attributes:
        missed_interrupts: programs that had finished without their interrupt, since creation.
        turns: which thread uses it; stopping them also aborts the program that runs.
    """

    def __init__(
        self,
        transport: MemoryTransport,
        config: AcceleratorConfig,
        *,
        grace: int = 100_000,
        watchdog: int | None = None,
    ) -> None:
        self.transport, self.config = transport, config
        self._grace, self._watchdog = grace, watchdog
        self._regions: Regions | None = None
        self._end = transport.size  # of what programs may fill
        self._poll, self._slice = POLL[transport.clock], SLICE[transport.clock]
        self.missed_interrupts = 0
        self.turns = Turns()

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave the device idle and its interrupt off. The transport stays open.

        Never fails: what cannot be tidied now is tidied by the next `open`.
        """
        with contextlib.suppress(HostError, OSError, OutputError):
            if not self._field("CTRL", "idle"):
                self.soft_reset()
            self._write("GIE", 0)

    def open(self) -> None:
        """Check that the device is the one expected, and bring it to a clean state.

        Raises:
            IncompatibleDevice: magic, version or configuration hash differs.
        """
        hash_ = accelerator_hash(self.config)
        same = f"load the bitstream of {self.config.name}, or open with its configuration"
        self._expect("MAGIC", MAGIC, "this is no lutvar accelerator; check the base address")
        self._expect(
            "VERSION", VERSION, "gateware and host differ in version; use matching releases"
        )
        try:
            self._expect("HASH_LO", hash_ & 0xFFFF_FFFF, same)
            self._expect("HASH_HI", hash_ >> 32, same)
        except IncompatibleDevice as error:
            advice = f"{same}; {self._what_it_is()}"
            raise IncompatibleDevice(error.register, error.expected, error.found, advice) from None
        self.soft_reset()

    def soft_reset(self) -> None:
        """Abort the program, clear error and counters; memory keeps its contents.

        Memory ports end what they have begun first. After a reset of the board the device also
        waits until its memory has been quiet for a while. Raises ProgramTimeout when either takes
        longer than `grace` cycles.
        """
        self._write("SOFT_RESET", 1)
        first, limit = self.transport.now(), self.transport.deadline(self._grace)
        while self._field("STATE", "resetting") or not self._field("CTRL", "ready"):
            if self.transport.now() - first >= limit:
                raise self._late("soft reset", self._grace)
            self.transport.wait(self._poll)
        if self._watchdog is not None:
            self._write("WATCHDOG", self._watchdog)
        self._write("GIE", 1)
        self._write("IER", 3)

    def place(
        self,
        model: Bytes,
        work: int,
        io: int,
        cache: int,
        *,
        digest: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Divide the memory into regions, open them to the device and write the model.

        Each region is open from its base to its end, so that the device refuses any transfer
        beyond. The program lies after the last region, which `run` extends by it.

        Args:
            model: contents of region MODEL.
            work, io, cache: bytes of the other regions.
            digest: SHA-256 of the model; one that lies in the memory already is used as it is, and
                this one stays for the next process (`lutvar.host.kept`). None: write it anew.
            progress: called with the bytes of the model that are in place.

        Raises:
            BadInput: the memory is too small, or not aligned.
            MemoryMismatch: the memory does not hold what was written.
        """
        if self.transport.base % ALIGN:
            raise BadInput(
                f"the device's memory starts at 0x{self.transport.base:X}, which is no multiple of "
                f"{ALIGN}; allocate the buffer with that alignment, or start at the next multiple"
            )
        sizes = {
            Region.MODEL: len(model), Region.WORK: work, Region.IO: io, Region.CACHE: cache,
        }  # fmt: skip
        base, starts, at = self.transport.base, {}, 0
        for region, size in sizes.items():
            starts[region] = at
            at += -(-size // PAGE) * PAGE
        self._end = self.transport.size - (0 if digest is None else MARKER_BYTES)
        if at + PAGE > self._end:
            need = ", ".join(f"{r.name} {s:,}" for r, s in sizes.items())
            raise BadInput(
                f"{at:,} bytes are needed ({need}), the device has {self.transport.size:,}; "
                "use fewer images at a time or more memory"
            )
        self._regions = Regions(starts, sizes, at)
        if digest is not None:
            place_kept(self.transport, model, digest, progress)
        else:
            if self.transport.clock == "seconds":
                forget(self.transport)  # a board's memory may hold another model
            load(self.transport, starts[Region.MODEL], chunks_of(model), progress=progress)
        for region, start in starts.items():
            self._write_address(f"BASE{int(region)}", base + start)
            self._limit(region, start + sizes[region])

    def write(self, region: Region, offset: int, data: Bytes) -> None:
        """Put bytes into a region. Raises BadInput outside it."""
        with self.turns:
            self.transport.write(self._at(region, offset, len(data)), data)

    def read(self, region: Region, offset: int, count: int) -> Bytes:
        """Bytes of a region. Raises BadInput outside it."""
        with self.turns:
            return self.transport.read(self._at(region, offset, count), count)

    def read_float32(self, region: Region, offset: int, count: int) -> NDArray[np.float32]:
        """Read float32 values, [count]."""
        return self.read(region, offset, 4 * count).view(np.float32)

    def run(self, program: bytes, limit: int, what: str = "program") -> DeviceCounters:
        """Run a program to its end.

        An interrupt only ends the wait; the registers say whether the program is done. A spurious
        one (a shared line, or left over from before a crash) proves nothing, and a missing one
        only costs time.

        Args:
            program: encoded, header included.
            limit: cycles of the device that it may take.
            what: its name in errors.

        Returns:
            Counters of this program.

        Raises:
            AcceleratorError: the device reported an error.
            DeviceBusy: an earlier program still runs.
            ProgramTimeout: it did not finish within `limit`.
            Stopped: another thread stopped the turns; the device is idle.

        Warns:
            MissedInterrupt: the program is done and no interrupt came; its results are good.
        """
        with self.turns:
            return self._run(program, limit, what)

    def _run(self, program: bytes, limit: int, what: str) -> DeviceCounters:
        if self._regions is None:
            raise BadInput("no regions yet; call place() first")
        if len(program) % INSTRUCTION_BYTES or len(program) < 2 * INSTRUCTION_BYTES:
            raise BadInput(f"a program of {len(program)} bytes; it is a header and instructions")
        self._raise_error()
        if not self._field("CTRL", "idle"):
            # The start would be ignored, and the end of the other program taken for this one's.
            raise DeviceBusy(
                f"{what} cannot start while another program runs; call soft_reset() first. "
                f"{DeviceSnapshot.read(self.register)}"
            )
        start = self._regions.program
        if start + len(program) > self._end:
            raise BadInput(
                f"a program of {len(program):,} bytes, and {self._end - start:,} are left for it; "
                "use fewer images at a time or more memory"
            )
        self.transport.write(start, np.frombuffer(program, np.uint8))
        before = DeviceCounters.read(self.register)
        self._limit(Region.CACHE, start + len(program))
        self._write_address("PROGRAM", self.transport.base + start)
        self._write("ISR", 3)
        self.transport.arm()
        self._write("CTRL", 1)
        self._wait(limit, what)
        self._write("ISR", 3)
        return DeviceCounters.read(self.register).since(before)

    def _wait(self, limit: int, what: str) -> None:
        """Wait until ISR reports done or an error, or time is up."""
        allowed = self.transport.deadline(limit)
        least = min(1, self._poll)
        first, left = self.transport.now(), allowed
        while True:
            woken = self.transport.wait(min(self._slice, max(least, left)))
            self._raise_error()
            if self._field("ISR", "done"):
                break
            if self.turns.stopped:
                self.soft_reset()
                raise Stopped(f"{what}: aborted, for another thread has failed")
            left = allowed - (self.transport.now() - first)
            if left <= 0:
                raise self._late(what, limit)
        # The program may have ended between the last wait and the look at ISR.
        if not woken and not self.transport.wait(self._poll):
            self.missed_interrupts += 1
            warnings.warn(
                f"{what}: the device has finished, but its interrupt did not come; check that the "
                "line is connected and enabled. Until then every pass waits longer than needed",
                MissedInterrupt,
                stacklevel=3,
            )

    def _late(self, what: str, cycles: int) -> ProgramTimeout:
        """The error when `cycles` of the device have passed."""
        board = self.transport.clock == "seconds"
        seconds = self.transport.deadline(cycles) if board else None
        return ProgramTimeout(what, cycles, DeviceSnapshot.read(self.register), seconds)

    def set_serial(self, serial: bool) -> None:
        """Run each instruction only when all earlier ones are complete (for comparisons)."""
        self._write("MODE", int(serial))

    def register(self, name: str) -> int:
        """Read a register by its name in the register table."""
        return self.transport.read32(BY_NAME[name].offset)

    def _at(self, region: Region, offset: int, count: int) -> int:
        if self._regions is None:
            raise BadInput("no regions yet; call place() first")
        size = self._regions.sizes[region]
        if offset < 0 or offset + count > size:
            raise BadInput(
                f"bytes {offset} to {offset + count} of region {region.name}, which has {size}"
            )
        return self._regions.starts[region] + offset

    def _field(self, register: str, name: str) -> int:
        return BY_NAME[register].field_value(self.register(register), name)

    def _raise_error(self) -> None:
        if self.register("ERROR"):
            raise AcceleratorError(DeviceSnapshot.read(self.register))

    def _write(self, name: str, value: int) -> None:
        self.transport.write32(BY_NAME[name].offset, value & 0xFFFF_FFFF)

    def _write_address(self, name: str, value: int) -> None:
        self._write(f"{name}_LO", value & 0xFFFF_FFFF)
        self._write(f"{name}_HI", value >> 32)

    def _limit(self, region: Region, end: int) -> None:
        """Open a region up to an offset in the driver's memory, and no further."""
        self._write_address(f"LIMIT{int(region)}", self.transport.base - -end // ALIGN * ALIGN)

    def _what_it_is(self) -> str:
        """The accelerator of those that ship that has the device's hash, in words."""
        found = device_hash(self.register)
        config = shipped_accelerator(found)
        if config is not None:
            return f"this one is {config.name}"
        return f"no accelerator that ships has {found:016x}"

    def _expect(self, register: str, expected: int, advice: str) -> None:
        value = self.register(register)
        if value != expected:
            raise IncompatibleDevice(register, expected, value, advice)
