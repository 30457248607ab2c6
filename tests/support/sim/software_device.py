# SPDX-License-Identifier: Apache-2.0
"""The driver's interface over the interpreter: a device in software, with faults on demand."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import UNITS, Instruction, Region
from lutvar.host.compile.program import Program
from lutvar.host.device_status import DeviceCounters
from lutvar.host.errors import HostError
from lutvar.host.turns import Turns
from lutvar.sim.interpret import Machine
from support.sim.device_rig import CONFIG

#: Called before an instruction with (number of the program, index, instruction, machine).
Fault = Callable[[Instruction, Machine], None]


class SoftwareDevice:
    """What `DeviceTransformer`, `DeviceDecoder` and the search need of a `Device`.

    Attributes:
        fault: called after each instruction; may change the machine's memory and banks.
        fails: raise HostError for programs of more instructions than this.
        programs: that ran.
    """

    def __init__(self) -> None:
        self.config, self.turns = CONFIG, Turns()
        self.transport = SimpleNamespace(size=1 << 30)
        self.fault: Fault = lambda _item, _machine: None
        self.fails: int | None = None
        self.programs: list[Program] = []

    def place(
        self, model: NDArray[np.uint8], work: int, io: int, cache: int, **_more: object
    ) -> None:
        sizes = {Region.MODEL: len(model), Region.WORK: work, Region.IO: io, Region.CACHE: cache}
        self.machine = Machine(CONFIG, sizes)
        self.machine.memory[Region.MODEL][:] = model

    def write(self, region: Region, offset: int, data: NDArray[np.uint8]) -> None:
        self.machine.memory[region][offset : offset + len(data)] = data

    def read(self, region: Region, offset: int, count: int) -> NDArray[np.uint8]:
        return self.machine.memory[region][offset : offset + count].copy()

    def soft_reset(self) -> None:
        pass

    def run(self, program: bytes, limit: int, what: str = "program") -> DeviceCounters:
        assert limit > 0 and what
        decoded = Program.decode(program)
        self.programs.append(decoded)
        if self.fails is not None and len(decoded.instructions) > self.fails:
            raise HostError("the device stopped")
        for item in decoded.instructions[:-1]:
            self.machine.step(item)
            self.fault(item, self.machine)
        assert not any(self.machine._shares), "weights are left over"
        zero = (0,) * len(UNITS)
        return DeviceCounters(0, zero, zero, zero, 0, 0, {}, {})
