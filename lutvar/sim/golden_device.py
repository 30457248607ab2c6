# SPDX-License-Identifier: Apache-2.0
"""An accelerator without gateware: the golden functions behind the device's registers and memory.

`golden:small-fp4` gives a host script everything that the driver sees of a board: registers with
their side effects, an interrupt, windows, refused programs by the same rules, counters, and
results that are right to the last bit. Cycles are those of the cost model: modelled. What it does
not have: the timing of a bus, a memory that answers late, and the state of units in the middle of a
program. It needs PyTorch, on whose functions the golden model stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import (
    ALIGN,
    INSTRUCTION_BYTES,
    MAX_INSTRUCTIONS,
    PROGRAM_HEADER,
    UNITS,
    Region,
)
from lutvar.contract.register_map import BY_NAME, REGISTERS, DeviceError
from lutvar.contract.register_types import Access, Register
from lutvar.host.compile.schedule import unit_of
from lutvar.host.errors import BadInput, BusError, HostError
from lutvar.host.transport import Bytes, Clock

from .golden_program import Failure, Judge, Verdict
from .golden_registers import constants, writable
from .memory import BASE, MEMORY_MIB, check_bounds

if TYPE_CHECKING:
    from lutvar.host.open import Address

    from .interpret import Machine

ACCESS = 8  #: cycles of a register access
RESET = 40  #: cycles of a soft reset with idle memory ports
SETTLE = 1024  #: cycles after ap_rst_n or a forced reset until CTRL.ready
_SLVERR = 2
_COUNTERS = tuple(
    r.name for r in REGISTERS
    if r.name.startswith(("BUSY_", "ACTIVE_", "MATRIX_", "READ_BEATS_", "WRITE_BEATS_", "PROGRAMS"))
)  # fmt: skip


class NoGoldenResult(HostError):
    """A program that the device would run, and whose result no rule determines."""


class GoldenDevice:
    """`MemoryTransport` over the golden functions. Time is counted in cycles of the cost model.

    A program runs when its modelled time is over, so a reset before leaves memory as it was.

    Args:
        config: what it is.
        base, size: its memory.
    """

    clock: Clock

    def __init__(
        self, config: AcceleratorConfig, *, base: int = BASE, size: int = MEMORY_MIB << 20
    ) -> None:
        self.config, self.base, self.size = config, base, size
        self.name, self.clock = f"golden:{config.name}", "cycles"
        self.memory: Bytes = np.zeros(size, np.uint8)
        self._judge = Judge(config, (base, base + size))
        self._constants = constants(config)
        self._stored = {r.name: r.reset for r in REGISTERS if r.access is Access.RW}
        self._passed, self._ready_at, self._reset_at = 0, SETTLE, 0
        self._machine: Machine | None = None
        self._done = False
        self._clear()

    # The seam --------------------------------------------------------------------------------
    def read32(self, offset: int) -> int:
        """See `MemoryTransport`."""
        register = self._register(offset, "read")
        self._tick(ACCESS)
        return self._read(register.name)

    def write32(self, offset: int, value: int) -> None:
        """See `MemoryTransport`."""
        register = self._register(offset, "write")
        if register.access is Access.RO:
            raise BusError("write", offset, _SLVERR)
        self._tick(ACCESS)
        self._write(register, value & writable(register))

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        check_bounds(self.size, offset, count)
        return self.memory[offset : offset + count].copy()

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        check_bounds(self.size, offset, len(data))
        self.memory[offset : offset + len(data)] = data

    def arm(self) -> None:
        """See `MemoryTransport`: the line is a level, there is nothing to forget."""

    def wait(self, amount: float) -> bool:
        """See `MemoryTransport`."""
        if not self.interrupt:
            end = self._passed + int(amount)
            if self._ends is not None and self._ends <= end:
                self._tick(max(0, self._ends - self._passed))
            if not self.interrupt:
                self._tick(end - self._passed)
        return self.interrupt

    def now(self) -> float:
        """See `MemoryTransport`."""
        return self._passed

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`: this clock is the device's own."""
        return cycles

    def close(self) -> None:
        """See `MemoryTransport`."""

    @property
    def interrupt(self) -> bool:
        """Level of the interrupt line."""
        stored = self._stored
        return bool(stored["GIE"] & 1 and stored["IER"] & self._isr)

    # Registers -------------------------------------------------------------------------------
    def _register(self, offset: int, operation: str) -> Register:
        for register in REGISTERS:
            if register.offset == offset:
                return register
        raise BusError(operation, offset, _SLVERR)

    def _read(self, name: str) -> int:
        live = {
            "CTRL": self._ctrl, "ISR": lambda: self._isr, "STATE": self._state,
            "CYCLES_LO": self._cycles,
        }  # fmt: skip
        if name in live:
            return live[name]()
        if name in self._stored:
            return self._stored[name]
        return self._constants.get(name, self._live.get(name, 0)) & 0xFFFF_FFFF

    def _ctrl(self) -> int:
        word, self._done = int(self._done) << 1, False
        idle = self._ends is None and not self._live["ERROR"]  # a stopped program is not over
        ready = idle and self._passed >= self._ready_at
        return word | idle << 2 | ready << 3

    def _state(self) -> int:
        fields = {f.name: 1 << f.low for f in BY_NAME["STATE"].fields}
        word = fields["quiet"]
        running = self._ends is not None
        for unit in (u.name.lower() for u in UNITS):
            word |= fields[f"incomplete_{unit}"] if running else fields[f"empty_{unit}"]
        word |= fields["resetting"] if self._passed < self._reset_at else 0
        word |= fields["halted"] if self._live["ERROR"] else 0
        return word | (fields["settling"] if self._passed < self._ready_at else 0)

    def _cycles(self) -> int:
        cycles = self._counted + (self._passed - self._started if self._ends is not None else 0)
        self._live["CYCLES_HI"] = cycles >> 32
        return cycles & 0xFFFF_FFFF

    def _write(self, register: Register, value: int) -> None:
        if register.name == "CTRL":
            if value & 1:
                self._start()
        elif register.name == "ISR":
            self._isr &= ~value
        elif register.name == "SOFT_RESET":
            if value & 2:
                self._ready_at = self._passed + SETTLE
            if value & 3:
                self._clear()
                self._reset_at = self._passed + RESET
                self._ready_at = max(self._ready_at, self._reset_at)
        else:
            self._stored[register.name] = value

    def _clear(self) -> None:
        """What a soft reset clears; also the banks, whose contents it leaves undefined."""
        self._live = dict.fromkeys(_COUNTERS, 0) | {"ERROR": 0, "CYCLES_HI": 0}
        self._isr, self._done, self._counted = 0, False, 0
        self._started, self._machine = 0, None
        self._ends: int | None = None
        self._verdict = Verdict()

    # Programs --------------------------------------------------------------------------------
    def _address(self, name: str) -> int:
        return self._stored[f"{name}_LO"] | self._stored[f"{name}_HI"] << 32

    def _start(self) -> None:
        if self._ends is not None or self._live["ERROR"] or self._passed < self._ready_at:
            return  # the device ignores it as well
        bases = [self._address(f"BASE{int(r)}") for r in Region]
        windows = [(bases[r] & -ALIGN, self._address(f"LIMIT{int(r)}") & -ALIGN) for r in Region]
        self._verdict = self._judge_program(bases, windows)
        self._started = self._passed
        left = self._stored["WATCHDOG"] if self._verdict.stuck else 0
        # A program that stands still with the watchdog off never ends.
        never = self._verdict.stuck and not left
        self._ends = (1 << 62) if never else self._passed + self._verdict.cycles + left
        for unit in UNITS:
            self._live[f"INSTRUCTIONS_{unit.name}"] = 0

    def _judge_program(self, bases: Sequence[int], windows: Sequence[tuple[int, int]]) -> Verdict:
        start = self._address("PROGRAM") & -ALIGN
        wrong = self._judge.transfer(windows, "prog", False, start, INSTRUCTION_BYTES)
        if wrong is not None:
            return Verdict(failure=wrong)
        head = self.memory[start - self.base :][:INSTRUCTION_BYTES].tobytes()
        field = next(f for f in PROGRAM_HEADER if f.name == "length")
        length = int.from_bytes(head, "little") >> field.low & (1 << field.width) - 1
        if not 0 < length <= MAX_INSTRUCTIONS:
            return self._judge.program([head], bases, windows)
        first, size = start + INSTRUCTION_BYTES, INSTRUCTION_BYTES * length
        room = self.base + self.size - first
        known = self.memory[start - self.base :][: INSTRUCTION_BYTES + min(size, room)].tobytes()
        words = [known[i : i + INSTRUCTION_BYTES] for i in range(0, len(known), INSTRUCTION_BYTES)]
        header = self._judge.program(words[:1], bases, windows).failure
        if header is not None and header.code is DeviceError.BAD_HEADER:
            return Verdict(failure=header)
        wrong = self._judge.transfer(windows, "prog", False, first, size)
        if wrong is not None:
            return Verdict(failure=wrong)
        return self._judge.program(words, bases, windows)

    def _tick(self, cycles: int) -> None:
        self._passed += cycles
        if self._ends is not None and self._ends <= self._passed:
            end, self._ends = self._ends, None
            self._finish(end)

    def _finish(self, end: int) -> None:
        verdict, live = self._verdict, self._live
        for item in verdict.order:
            live[f"INSTRUCTIONS_{unit_of(item.opcode).name}"] += 1
        self._counted += end - self._started
        for name, count in verdict.counts.items():
            live[name] = live.get(name, 0) + count
        self._execute(verdict)
        failure = verdict.failure
        if verdict.stuck:
            failure = Failure(DeviceError.WATCHDOG, self._stuck_state())
        if failure is None:
            live["PROGRAMS"] += 1
            self._done, self._isr = True, self._isr | 1
            return
        self._isr |= 2
        live |= {
            "ERROR": int(failure.code), "ERROR_INFO": failure.info,
            "ERROR_ADDRESS_LO": failure.address & 0xFFFF_FFFF,
            "ERROR_ADDRESS_HI": failure.address >> 32,
        }  # fmt: skip

    def _stuck_state(self) -> int:
        fields = {f.name: 1 << f.low for f in BY_NAME["STATE"].fields}
        return fields["quiet"] | fields["dispatch"]

    def _execute(self, verdict: Verdict) -> None:
        from .interpret import Machine

        if self._machine is None:
            self._machine = Machine(self.config, {})
        for region in Region:
            at = self._address(f"BASE{int(region)}") - self.base
            inside = 0 <= at < self.size
            self._machine.memory[region] = self.memory[at:] if inside else self.memory[:0]
        try:
            # Memory may hold anything, and infinities are no reason to stop or to warn.
            with np.errstate(all="ignore"):
                for item in verdict.order:
                    self._machine.step(item)
        except (AssertionError, IndexError, ValueError) as error:
            if verdict.failure is not None:
                return  # what such a program leaves is nobody's business
            raise NoGoldenResult(
                f"{self.name}: no rule says what this program computes ({error}); the compiler "
                "writes no such program"
            ) from error


def open_golden(address: Address) -> GoldenDevice:
    """`golden:CONFIG` for `lutvar.host.open`. Setting: `memory` in MiB. Raises BadInput."""
    address.allow("memory")
    config = load_accelerator(address.target) if address.target else address.config
    if config is None:
        raise BadInput(f"{address}: name a configuration, such as golden:small-fp4")
    return GoldenDevice(config, size=int(address.number("memory", MEMORY_MIB) * (1 << 20)))
