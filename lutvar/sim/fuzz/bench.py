# SPDX-License-Identifier: Apache-2.0
"""Runs steps on a simulated accelerator and notes what happened; judges nothing."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from typing_extensions import Self

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS, Region
from lutvar.contract.register_map import (
    BY_NAME,
    READ_PORTS,
    WRITE_PORTS,
    read_ports,
)
from lutvar.sim.device import SimulationTimeout, VerilatedDevice

from .case import Step
from .contents import BASES, GUARD, PROGRAM_OFFSET, SIZES, regions
from .events import WATCHDOG, Event, Pace, Timing
from .outcome import Bytes, Outcome
from .storm import storm

LIMIT = 60_000  #: cycles after which a program is taken for a long one and stopped
_SOFT_RESET_LIMIT = 20_000
_READY_LIMIT = 20_000
_SLICE = 4096
_QUIET = 4096  #: cycles after which no answer is under way any more
_GUARD_VALUE = 0xA5
_ALL_ONES = (1 << 64) - 1


class Bench:
    """A device that was never used before, with its regions placed.

    Args:
        library: the model, see `lutvar.sim.verilator.build`.
        config: what it is.
        plusarg: see `VerilatedDevice`.
        bases: where the regions lie.
    """

    def __init__(
        self,
        library: Path,
        config: AcceleratorConfig,
        *,
        plusarg: str = "",
        bases: Mapping[Region, int] = BASES,
    ) -> None:
        self.config, self.bases = config, bases
        self.library, self.plusarg = library, plusarg
        total = sum(SIZES[region] + 2 * GUARD for region in Region)
        self.device = VerilatedDevice(library, total, plusarg=plusarg)
        self._at: dict[Region, int] = {}
        at = 0
        for region in Region:
            size = SIZES[region]
            self.device.call("segment", bases[region] - GUARD, size + 2 * GUARD, at)
            self._at[region] = at + GUARD
            at += size + 2 * GUARD
            self.device.call("window", bases[region], bases[region] + size)
        self.device.memory[:] = _GUARD_VALUE
        self._rules = self._broken_rules()
        self.open()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.device.close()

    # Registers -------------------------------------------------------------------------------
    def read(self, name: str) -> int:
        """Value of a register."""
        value, response = self.device.reg_read(BY_NAME[name].offset)
        if response:
            raise SimulationTimeout(f"a read of {name} was answered with {response}")
        return value

    def write(self, name: str, value: int) -> None:
        """Write a register."""
        response = self.device.reg_write(BY_NAME[name].offset, value)
        if response:
            raise SimulationTimeout(f"a write to {name} was answered with {response}")

    def _field(self, register: str, name: str) -> int:
        return BY_NAME[register].field_value(self.read(register), name)

    def _write64(self, name: str, value: int) -> None:
        self.write(f"{name}_LO", value & 0xFFFF_FFFF)
        self.write(f"{name}_HI", value >> 32)

    def open(self) -> None:
        """What a driver does after a hard reset."""
        self._ready()
        for region in Region:
            self._write64(f"BASE{int(region)}", self.bases[region])
            self._write64(f"LIMIT{int(region)}", self.bases[region] + SIZES[region])
        self.point(self.bases[Region.IO] + PROGRAM_OFFSET)
        self.write("WATCHDOG", WATCHDOG)
        self.write("IER", 3)
        self.write("GIE", 1)

    def point(self, program: int) -> None:
        """Say where the next program lies, until `open`."""
        self._write64("PROGRAM", program)

    def _ready(self) -> None:
        for _ in range(_READY_LIMIT // 64):
            if self._field("CTRL", "ready"):
                return
            self.device.idle(64)
        raise SimulationTimeout("CTRL.ready stays 0 after a reset")

    def soft_reset(self) -> None:
        """SOFT_RESET, until it is over."""
        self.write("SOFT_RESET", 1)
        first = self.device.cycles
        while self._field("STATE", "resetting"):
            if self.device.cycles - first > _SOFT_RESET_LIMIT:
                raise SimulationTimeout("SOFT_RESET does not end")
            self.device.idle(16)
        self._ready()
        self.write("IER", 3)
        self.write("GIE", 1)

    # Steps -----------------------------------------------------------------------------------
    def run(self, step: Step) -> Outcome:
        """Run a step; the device is ready for the next one afterwards, unless `stuck`."""
        outcome = Outcome()
        first = self.device.cycles
        contents = regions(self.config, step.fills)
        program = np.frombuffer(step.program, np.uint8)
        contents[Region.IO][PROGRAM_OFFSET : PROGRAM_OFFSET + len(program)] = program
        for region, content in contents.items():
            self._part(region)[:] = content
        self._set_timing(step.timing)
        try:
            self._run(step, outcome)
        except SimulationTimeout as error:
            outcome.stuck = True
            outcome.problems.append(str(error))
        outcome.cycles = self.device.cycles - first
        self._clear_events()
        outcome.memory = {region: self._part(region).copy() for region in Region}
        outcome.guard = self._changed_guard()
        self._rules_kept(outcome)
        return outcome

    def _run(self, step: Step, outcome: Outcome) -> None:
        event = step.event
        self.write("MODE", int(step.timing.serial))
        self.write("ISR", 3)
        before = self._moved()
        self._arm(event)
        self.write("CTRL", 1)
        if event is not None and event.kind in ("hard_reset", "soft_reset", "storm", "hold"):
            self.device.run(int(event["cycle"]))
            if self._interrupt_by_event(event, outcome):
                return
        ended = self._wait(outcome)
        outcome.error = self.read("ERROR")
        outcome.info = self.read("ERROR_INFO")
        outcome.address = self.read("ERROR_ADDRESS_LO") | self.read("ERROR_ADDRESS_HI") << 32
        outcome.done = bool(self._field("ISR", "done"))
        outcome.counts = tuple(self.read(f"INSTRUCTIONS_{unit.name}") for unit in UNITS)
        if outcome.done and not outcome.error:
            self._after_end(before, outcome)
        outcome.refused = self._refused(event)
        if outcome.error or not ended:
            self._clear_events()
            if event is not None and event.kind == "wrong_last":
                # A burst that AXI says is over may still have beats, which nothing tells from those
                # of the next one: only a memory that is quiet again can be used.
                self.device.idle(_QUIET)
            self.soft_reset()
            self._clean_after_reset(outcome)

    def _wait(self, outcome: Outcome) -> bool:
        """Until the program has ended, with or without an error. False: it was given up."""
        first = self.device.cycles
        while self.device.cycles - first < LIMIT:
            if self.device.run(_SLICE):
                return True
            if self.read("ISR"):
                # The program may have ended while the register was being read.
                if not self.device.interrupt:
                    outcome.problems.append("ISR is set and the interrupt is low")
                return True
        before = self._activity()
        if self.device.run(2 * WATCHDOG):
            return True
        outcome.stopped = True
        if before == self._activity():
            outcome.stuck = True
            outcome.problems.append(f"nothing moves for {2 * WATCHDOG} cycles and no error tells")
        return False

    def _activity(self) -> tuple[int, ...]:
        names = [n for n in BY_NAME if n.startswith(("ACTIVE_", "READ_BEATS_", "WRITE_BEATS_"))]
        return tuple(self.read(name) for name in names)

    def _after_end(self, before: Mapping[str, int], outcome: Outcome) -> None:
        state, ctrl = self.read("STATE"), self.read("CTRL")
        if ctrl & 0xF != 0b1110:
            outcome.problems.append(f"CTRL is {ctrl:#x} after a program; 0xE is right")
        for item in BY_NAME["STATE"].fields:
            value = int(item.name == "quiet" or item.name.startswith("empty_"))
            if BY_NAME["STATE"].field_value(state, item.name) != value:
                outcome.problems.append(f"STATE.{item.name} is {1 - value} after a program")
        for name, count in self._moved().items():
            if count != before[name]:
                what = f"{name} differs from the memory's own count by {count - before[name]}"
                outcome.problems.append(what)

    def _moved(self) -> dict[str, int]:
        """By counter: beats that the device has counted less those that the memory has moved."""
        result = {}
        for port in read_ports(self.config.weight_ports):
            name = f"READ_BEATS_{port.upper()}"
            result[name] = self.read(name) - self.device.beats(port)  # type: ignore[arg-type]
        for port in WRITE_PORTS:
            name = f"WRITE_BEATS_{port.upper()}"
            result[name] = self.read(name) - self.device.beats(port, write=True)  # type: ignore[arg-type]
        return result

    def _clean_after_reset(self, outcome: Outcome) -> None:
        addresses = ("ERROR_ADDRESS_LO", "ERROR_ADDRESS_HI")
        for name in ("ERROR", "ERROR_INFO", *addresses, "ISR", "PROGRAMS", "INSTRUCTIONS_MATRIX"):
            if value := self.read(name):
                outcome.problems.append(f"{name} is {value:#x} after SOFT_RESET")
        if (ctrl := self.read("CTRL")) & 0xF != 0b1100:
            outcome.problems.append(f"CTRL is {ctrl:#x} after SOFT_RESET; 0xC is right")

    # Events ----------------------------------------------------------------------------------
    def _direction(self, name: str) -> tuple[int, int]:
        kind, port = name.split("_")
        return READ_PORTS.index(port), int(kind == "w")

    def _arm(self, event: Event | None) -> None:
        if event is not None and event.kind == "refuse":
            where = self._direction(event["port"])
            self.device.call("refuse", *where, event["number"], event["response"])
        elif event is not None and event.kind == "wrong_last":
            self.device.call("wrong_last", self._direction(event["port"])[0], event["number"])

    def _refused(self, event: Event | None) -> int | None:
        if event is None or event.kind != "refuse":
            return None
        address = int(self.device.call("refused", *self._direction(event["port"])))
        return None if address == _ALL_ONES else address

    def _clear_events(self) -> None:
        for kind, ports in (("r", read_ports(self.config.weight_ports)), ("w", WRITE_PORTS)):
            for port in ports:
                where = self._direction(f"{kind}_{port}")
                self.device.call("refuse", *where, 0, 0)
                self.device.call("hold", *where, 0)
                if kind == "r":
                    self.device.call("wrong_last", where[0], 0)

    def _interrupt_by_event(self, event: Event, outcome: Outcome) -> bool:
        """What happens in the middle of a program. True: the program is over."""
        if event.kind == "hold":
            self.device.call("hold", *self._direction(event["port"]), event["cycles"])
            return False
        if event.kind == "storm":
            outcome.problems += storm(self.device, event, self.read("SCRATCH"))
            return False
        outcome.stopped = True
        if event.kind == "soft_reset":
            self.soft_reset()
            self._clean_after_reset(outcome)
        else:
            self.device.reset(event["cycles"], keep=bool(event["keep"]))
            self.open()
        return True

    # Memory ----------------------------------------------------------------------------------
    def _part(self, region: Region) -> Bytes:
        at = self._at[region]
        return self.device.memory[at : at + SIZES[region]]

    def _set_timing(self, timing: Timing) -> None:
        device = self.device
        device.call("timing", 8, 8, 0, timing.bandwidth, timing.seed)
        default = Pace()
        for kind, ports in (("r", read_ports(self.config.weight_ports)), ("w", WRITE_PORTS)):
            for port in ports:
                pace = timing.paces.get(f"{kind}_{port}", default)
                device.call(
                    "pace", *self._direction(f"{kind}_{port}"), pace.low, pace.high,
                    int(pace.address * 2**32), int(pace.data * 2**32),
                )  # fmt: skip
        for port in WRITE_PORTS:
            device.call("order", READ_PORTS.index(port), timing.orders.get(port, 0))

    def _changed_guard(self) -> list[int]:
        """Addresses beside the regions that changed; they are put right again."""
        changed = []
        for region in Region:
            at, size = self._at[region], SIZES[region]
            for offset in (-GUARD, size):
                part = self.device.memory[at + offset : at + offset + GUARD]
                wrong = np.flatnonzero(part != _GUARD_VALUE)
                if wrong.size:
                    changed.append(self.bases[region] + offset + int(wrong[0]))
                    part[:] = _GUARD_VALUE
        return changed

    # Rules of the buses ----------------------------------------------------------------------
    def _broken_rules(self) -> dict[str, int]:
        first = ctypes.c_uint64()
        outside = int(self.device.call("outside", ctypes.byref(first)))
        rules = {"violations of AXI": self.device.violations}
        if outside:
            rules[f"bursts outside the regions, the first at {first.value:#x}"] = outside
        rules["VALIDs while ap_rst_n is low"] = int(self.device.call("valid_in_reset"))
        return {what: count for what, count in rules.items() if count}

    def _rules_kept(self, outcome: Outcome) -> None:
        now = self._broken_rules()
        for what, count in now.items():
            if count != self._rules.get(what, 0):
                outcome.problems.append(f"{count - self._rules.get(what, 0)} {what}")
        self._rules = now
