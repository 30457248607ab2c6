# SPDX-License-Identifier: Apache-2.0
"""What the accelerator says about itself: counters, a snapshot for errors, the errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lutvar.contract.accelerator import BEAT_BYTES
from lutvar.contract.isa import UNITS
from lutvar.contract.register_map import (
    BY_NAME,
    READ_PORTS,
    WRITE_PORTS,
    HeaderRule,
    InstructionRule,
    ReadRule,
)
from lutvar.contract.register_map import DeviceError as Code

from .errors import HostError

ReadRegister = Callable[[str], int]
_WORD = 1 << 32


@dataclass(frozen=True)
class DeviceCounters:
    """Counters of the device, or differences of them. All in cycles unless said otherwise.

    Attributes:
        cycles: while a program ran.
        busy, active, instructions: by unit, in the order of `UNITS`.
        issue: the array multiplied. wait_weights: it waited for weights alone.
        read_beats, write_beats: beats of 64 bytes by memory port.
    """

    cycles: int
    busy: tuple[int, ...]
    active: tuple[int, ...]
    instructions: tuple[int, ...]
    issue: int
    wait_weights: int
    read_beats: dict[str, int]
    write_beats: dict[str, int]

    @classmethod
    def read(cls, read: ReadRegister) -> DeviceCounters:
        """Read all counters; CYCLES_HI is latched by CYCLES_LO, so that pair is consistent."""
        low = read("CYCLES_LO")
        return cls(
            low | read("CYCLES_HI") << 32,
            tuple(read(f"BUSY_{u.name}") for u in UNITS),
            tuple(read(f"ACTIVE_{u.name}") for u in UNITS),
            tuple(read(f"INSTRUCTIONS_{u.name}") for u in UNITS),
            read("MATRIX_ISSUE"),
            read("MATRIX_WAIT_WEIGHTS"),
            {p: read(f"READ_BEATS_{p.upper()}") for p in READ_PORTS},
            {p: read(f"WRITE_BEATS_{p.upper()}") for p in WRITE_PORTS},
        )

    def since(self, earlier: DeviceCounters) -> DeviceCounters:
        """The difference to an earlier reading; each 32-bit counter may have wrapped once.

        `instructions` restart with each program and are kept as they are.
        """

        def less(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
            return tuple((x - y) % _WORD for x, y in zip(a, b, strict=True))

        def fewer(a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
            return {port: (count - b[port]) % _WORD for port, count in a.items()}

        return DeviceCounters(
            self.cycles - earlier.cycles,
            less(self.busy, earlier.busy),
            less(self.active, earlier.active),
            self.instructions,
            (self.issue - earlier.issue) % _WORD,
            (self.wait_weights - earlier.wait_weights) % _WORD,
            fewer(self.read_beats, earlier.read_beats),
            fewer(self.write_beats, earlier.write_beats),
        )

    @property
    def utilisation(self) -> float:
        """Share of the cycles in which the array multiplied."""
        return self.issue / self.cycles if self.cycles else 0.0

    @property
    def traffic(self) -> int:
        """Bytes moved on all memory ports."""
        return BEAT_BYTES * (sum(self.read_beats.values()) + sum(self.write_beats.values()))


@dataclass(frozen=True)
class DeviceSnapshot:
    """Registers at the time of an error."""

    ctrl: int
    state: int
    ports: int
    error: int
    error_info: int
    error_address: int
    instructions: tuple[int, ...]

    @classmethod
    def read(cls, read: ReadRegister) -> DeviceSnapshot:
        """Read everything. Reading CTRL clears its done bit."""
        return cls(
            read("CTRL"),
            read("STATE"),
            read("PORTS"),
            read("ERROR"),
            read("ERROR_INFO"),
            read("ERROR_ADDRESS_LO") | read("ERROR_ADDRESS_HI") << 32,
            tuple(read(f"INSTRUCTIONS_{u.name}") for u in UNITS),
        )

    @staticmethod
    def names(register: str, word: int) -> str:
        """Names of the bits that are set."""
        set_bits = [f.name for f in BY_NAME[register].fields if word >> f.low & 1]
        return " ".join(set_bits) or "nothing set"

    def __str__(self) -> str:
        counts = ", ".join(f"{u.name} {n}" for u, n in zip(UNITS, self.instructions, strict=True))
        return (
            f"STATE 0x{self.state:08X} ({self.names('STATE', self.state)}); "
            f"PORTS 0x{self.ports:08X} ({self.names('PORTS', self.ports)}); "
            f"instructions complete: {counts}"
        )


class AcceleratorError(HostError):
    """The accelerator stopped with an error; it stays halted until a soft reset.

    Attributes:
        code: `register_map.DeviceError`, or a number that this version does not know.
        snapshot: the registers at the time.
        where: what it was at, for people; empty where nobody has looked.
    """

    def __init__(self, snapshot: DeviceSnapshot, where: str = "") -> None:
        self.snapshot, self.where = snapshot, where
        self.code: int | Code = snapshot.error
        try:
            self.code = Code(snapshot.error)
            name = self.code.name
        except ValueError:
            name = "unknown"
        super().__init__(
            f"{where}{': ' if where else ''}"
            f"device error {snapshot.error} ({name}): {explain(snapshot)}. "
            f"Call soft_reset() before the next program. {snapshot}"
        )


def explain(snapshot: DeviceSnapshot) -> str:
    """An error in words: what went wrong, where, and what to do."""
    code, info = snapshot.error, snapshot.error_info
    if code == Code.BAD_HEADER:
        rule = HeaderRule(info).name if info in set(HeaderRule) else str(info)
        return f"program header, {rule}: compile the program for this accelerator"
    if code == Code.BAD_INSTRUCTION:
        index, number = info & 0xFF_FFFF, info >> 24
        rule = InstructionRule(number).name if number in set(InstructionRule) else str(number)
        return f"instruction {index} breaks rule {rule}; `lutvar disassemble` shows it"
    if code == Code.WATCHDOG:
        state = DeviceSnapshot.names("STATE", info)
        return f"no progress for WATCHDOG cycles; state then: {state}"
    if code in (Code.WEIGHTS_SURPLUS, Code.WEIGHTS_MISSING):
        many = "more" if code == Code.WEIGHTS_SURPLUS else "fewer"
        return (
            f"FETCH brings {many} beats a panel than instruction {info} (MATRIX) needs; "
            "compile the program for this model, or check `beats` of its FETCH"
        )
    try:
        kind, port = Code(code).name.lower().split("_")
    except ValueError:
        return "a code that this version does not know"
    at = f"of m_axi_{port} at 0x{snapshot.error_address:X}"
    if kind == "outside":
        return (
            f"a {'write' if info else 'read'} {at} lies in no region and was not begun; check the "
            "program's addresses and lengths against the regions' sizes (BASE and LIMIT)"
        )
    if kind == "read" and info == ReadRule.LAST:
        return f"RLAST does not end the burst {at} where it should; check the interconnect"
    return f"the memory refused a {kind} {at}; check base addresses and the size of the buffer"
