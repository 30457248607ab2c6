# SPDX-License-Identifier: Apache-2.0
"""One program on any transport, register by register, without the driver: for comparisons."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS, Region
from lutvar.contract.register_map import BY_NAME, READ_PORTS, WRITE_PORTS
from lutvar.host.transport import Bytes, MemoryTransport
from lutvar.sim.fuzz.contents import PROGRAM_OFFSET, SIZES, Fill, regions

LIMIT = 200_000  #: cycles
COUNTERS = (
    *(f"INSTRUCTIONS_{u.name}" for u in UNITS), "MATRIX_ISSUE", "PROGRAMS",
    *(f"READ_BEATS_{p.upper()}" for p in READ_PORTS),
    *(f"WRITE_BEATS_{p.upper()}" for p in WRITE_PORTS),
)  # fmt: skip
STARTS = dict(zip(Region, np.cumsum([0, *SIZES.values()]).tolist(), strict=False))
MEMORY = sum(SIZES.values())


@dataclass
class Outcome:
    """What a program left behind."""

    done: bool = False
    interrupt: bool = False
    ctrl: int = 0
    error: tuple[int, int] = (0, 0)
    address: int = 0
    counters: dict[str, int] = field(default_factory=dict)
    memory: dict[Region, Bytes] = field(default_factory=dict)


class Side:
    """A transport whose regions are those of the fuzzer, one after the other."""

    def __init__(self, transport: MemoryTransport, config: AcceleratorConfig) -> None:
        self.transport, self.config = transport, config
        self.reset()

    def read(self, name: str) -> int:
        return self.transport.read32(BY_NAME[name].offset)

    def write(self, name: str, value: int) -> None:
        self.transport.write32(BY_NAME[name].offset, value)

    def write64(self, name: str, value: int) -> None:
        self.write(f"{name}_LO", value & 0xFFFF_FFFF)
        self.write(f"{name}_HI", value >> 32)

    def reset(self) -> None:
        self.write("SOFT_RESET", 1)
        while not self.read("CTRL") >> 3 & 1:
            self.transport.wait(64)
        self.write("GIE", 1)
        self.write("IER", 3)
        self.write("WATCHDOG", 3000)
        base = self.transport.base
        for region, start in STARTS.items():
            self.write64(f"BASE{int(region)}", base + start)
            self.write64(f"LIMIT{int(region)}", base + start + SIZES[region])
        self.write64("PROGRAM", base + STARTS[Region.IO] + PROGRAM_OFFSET)

    def run(self, program: bytes, fills: tuple[Fill, ...] = ()) -> Outcome:
        """Run a program over fresh memory; afterwards the device is ready again."""
        for region, content in regions(self.config, fills).items():
            self.transport.write(STARTS[region], content)
        raw = np.frombuffer(program, np.uint8)
        self.transport.write(STARTS[Region.IO] + PROGRAM_OFFSET, raw)
        before = {name: self.read(name) for name in COUNTERS}
        self.write("ISR", 3)
        self.write("CTRL", 1)
        outcome = Outcome(interrupt=self.transport.wait(LIMIT))
        outcome.done = bool(self.read("ISR") & 1)
        outcome.ctrl = self.read("CTRL")
        outcome.error = self.read("ERROR"), self.read("ERROR_INFO")
        outcome.address = self.read("ERROR_ADDRESS_LO") | self.read("ERROR_ADDRESS_HI") << 32
        keep = {f"INSTRUCTIONS_{u.name}" for u in UNITS}
        outcome.counters = {
            name: self.read(name) - (0 if name in keep else before[name]) for name in COUNTERS
        }
        for region, start in STARTS.items():
            outcome.memory[region] = self.transport.read(start, SIZES[region])
        if outcome.error[0] or not outcome.interrupt:
            self.reset()
        return outcome
