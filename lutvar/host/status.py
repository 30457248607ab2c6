# SPDX-License-Identifier: Apache-2.0
"""What the device says about itself: performance counters and a snapshot for error messages."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from lutvar.contract.registers import BY_NAME, ErrorCode

from .transport import Transport

_WORD = 1 << 32


def read_register(transport: Transport, name: str) -> int:
    """Read a register by its name in the register table."""
    return transport.read32(BY_NAME[name].offset)


@dataclass(frozen=True)
class Counters:
    """Performance counters, all since the last soft reset.

    Attributes:
        cycles: cycles while not idle.
        busy: cycles in which the array was issued work; ``busy / cycles`` is its utilisation.
        stall_act, stall_wgt, stall_out, stall_gap: cycles without issue, by reason (registers.md).
        beats_act, beats_wgt, beats_out: stream beats.
        jobs: jobs finished.
    """

    cycles: int = 0
    busy: int = 0
    stall_act: int = 0
    stall_wgt: int = 0
    stall_out: int = 0
    stall_gap: int = 0
    beats_act: int = 0
    beats_wgt: int = 0
    beats_out: int = 0
    jobs: int = 0

    @classmethod
    def read(cls, transport: Transport) -> Counters:
        """Read all counters. CYCLES_HI is latched by CYCLES_LO, so the pair is consistent."""
        low = read_register(transport, "CYCLES_LO")
        cycles = low | read_register(transport, "CYCLES_HI") << 32
        rest = [read_register(transport, f.name.upper()) for f in fields(cls)[1:]]
        return cls(cycles, *rest)

    def __add__(self, other: Counters) -> Counters:
        return Counters(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def since(self, earlier: Counters) -> Counters:
        """The difference to an earlier reading; each 32-bit counter may have wrapped once."""
        now, then = astuple(self), astuple(earlier)
        rest = ((a - b) % _WORD for a, b in zip(now[1:], then[1:], strict=True))
        return Counters(now[0] - then[0], *rest)


@dataclass(frozen=True)
class Snapshot:
    """Registers at the time of an error.

    Attributes:
        ctrl, state, error, error_info: the register words.
        counters: all counters.
    """

    ctrl: int
    state: int
    error: int
    error_info: int
    counters: Counters

    @classmethod
    def read(cls, transport: Transport) -> Snapshot:
        """Read everything. Reading CTRL clears its done bit."""
        return cls(
            read_register(transport, "CTRL"),
            read_register(transport, "STATE"),
            read_register(transport, "ERROR"),
            read_register(transport, "ERROR_INFO"),
            Counters.read(transport),
        )

    def decoded(self, register: str) -> str:
        """The fields of CTRL or STATE as ``name=value``."""
        word = {"CTRL": self.ctrl, "STATE": self.state}[register]
        table = BY_NAME[register]
        return " ".join(f"{f.name}={table.field_value(word, f.name)}" for f in table.fields)

    def __str__(self) -> str:
        try:
            error = ErrorCode(self.error).name
        except ValueError:
            error = "unknown"
        counts = " ".join(f"{f.name}={getattr(self.counters, f.name)}" for f in fields(Counters))
        return (
            f"CTRL 0x{self.ctrl:X} ({self.decoded('CTRL')}); "
            f"STATE 0x{self.state:X} ({self.decoded('STATE')}); "
            f"ERROR {self.error} ({error}), ERROR_INFO 0x{self.error_info:X}; counters: {counts}"
        )
