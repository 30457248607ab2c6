# SPDX-License-Identifier: Apache-2.0
"""A device in software behind the driver's transport, which notes all that the driver does.

The driver opens it, places a model and runs programs as on any device; programs are executed by
the interpreter. What comes out is a list of steps for a testbench: register writes, answers that
the hardware must give, waits for the interrupt, and memory before and after each program.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import INSTRUCTION_BYTES, PROGRAM_HEADER, Region
from lutvar.contract.register_map import BY_NAME, MAGIC, VERSION
from lutvar.host.compile.program import Program
from lutvar.host.errors import BadInput
from lutvar.host.transport import Bytes, Clock
from lutvar.sim.interpret import Machine

WORD = 64  #: bytes of a memory word, a beat of the bus
_PAGE = 4096
_NAMES = {register.offset: name for name, register in BY_NAME.items()}
_RESETTING = sum(1 << f.low for f in BY_NAME["STATE"].fields if f.name == "resetting")
_FILL = 0xA5  #: memory that nobody wrote: an output that stays unwritten is seen


class Op(IntEnum):
    """What a step does; the testbench has the same numbers."""

    END = 0
    WRITE = 1  #: write `data` to a register
    EXPECT = 2  #: a register reads `data`
    ONES = 3  #: poll a register until all bits of `data` are 1
    ZEROS = 4  #: poll a register until all bits of `data` are 0
    INTERRUPT = 5  #: wait for the interrupt
    LOAD = 6  #: memory before program number `data`
    COMPARE = 7  #: memory after program number `data`


def _program(memory: NDArray[np.uint8]) -> Program:
    """The program at the start of memory."""
    word = int.from_bytes(memory[:INSTRUCTION_BYTES].tobytes(), "little")
    length = next(f for f in PROGRAM_HEADER if f.name == "length")
    count = 1 + (word >> length.low & (1 << length.width) - 1)
    return Program.decode(memory[: count * INSTRUCTION_BYTES].tobytes())


@dataclass(frozen=True)
class Step:
    """A step of the testbench; `offset` is that of a register."""

    op: Op
    offset: int = 0
    data: int = 0


@dataclass
class Recorder:
    """`MemoryTransport` of a device that is a program.

    Attributes:
        config: what it is.
        base: of its memory, as the device sees it. size: bytes.
        steps: what the driver did.
        loads, expects: for each program, the words of memory that the host wrote before it, and
            those that the device must have written: index -> 64 bytes.
    """

    config: AcceleratorConfig
    size: int
    base: int = 0x5_5000_0000
    name: str = "recorder"
    clock: Clock = "cycles"
    steps: list[Step] = field(default_factory=list)
    loads: list[dict[int, bytes]] = field(default_factory=list)
    expects: list[dict[int, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._memory = np.full(self.size, _FILL, np.uint8)
        self._known = self._memory.copy()  # as the testbench has it
        self._machine = Machine(self.config, {})
        self._top, self._passed = 0, 0.0
        digest = accelerator_hash(self.config)
        self._registers = {
            "MAGIC": MAGIC, "VERSION": VERSION, "HASH_LO": digest & 0xFFFF_FFFF,
            "HASH_HI": digest >> 32, "CTRL": 0b1100, "ISR": 0,
        }  # fmt: skip

    def read32(self, offset: int) -> int:
        """Answers as an idle device; the answers that matter become steps."""
        name = _NAMES[offset]
        value = self._registers.get(name, 0)
        if name in ("MAGIC", "VERSION", "HASH_LO", "HASH_HI", "ERROR", "ISR"):
            self.steps.append(Step(Op.EXPECT, offset, value))
        elif name == "CTRL":
            self.steps.append(Step(Op.ONES, offset, value & 0b1100))  # `done` clears itself
        elif name == "STATE":
            self.steps.append(Step(Op.ZEROS, offset, _RESETTING))
        return value

    def write32(self, offset: int, value: int) -> None:
        """Note a write; a start executes the program."""
        name = _NAMES[offset]
        if name == "CTRL" and value & 1:
            self._run(offset, value)
            return
        self.steps.append(Step(Op.WRITE, offset, value))
        if name == "ISR":
            self._registers[name] &= ~value
        elif name != "SOFT_RESET":
            self._registers[name] = value

    def read(self, offset: int, count: int) -> Bytes:
        """See `MemoryTransport`."""
        return self._memory[offset : offset + count].copy()

    def write(self, offset: int, data: Bytes) -> None:
        """See `MemoryTransport`."""
        if offset < 0 or offset + len(data) > self.size:
            raise BadInput(f"bytes {offset} to {offset + len(data)} are outside the memory")
        self._memory[offset : offset + len(data)] = data
        self._top = max(self._top, offset + len(data))

    def arm(self) -> None:
        """See `MemoryTransport`."""

    def wait(self, amount: float) -> bool:
        """A program is over before the driver waits for it."""
        self._passed += amount
        return self._registers["ISR"] != 0

    def now(self) -> float:
        """See `MemoryTransport`."""
        return self._passed

    def deadline(self, cycles: int) -> float:
        """See `MemoryTransport`."""
        return cycles

    def close(self) -> None:
        """See `MemoryTransport`."""

    @property
    def words(self) -> int:
        """Words of memory that the case needs: whole pages up to the last byte in use."""
        return -(-self._top // _PAGE) * _PAGE // WORD

    @property
    def bases(self) -> list[int]:
        """Address of each region."""
        return [self._base(region) for region in Region]

    def _base(self, region: Region) -> int:
        low, high = (self._registers[f"BASE{int(region)}_{half}"] for half in ("LO", "HI"))
        return low | high << 32

    def first_load(self) -> NDArray[np.uint8]:
        """All memory before the first program, uint8 [words, 64]."""
        image = np.full((self.words, WORD), _FILL, np.uint8)
        for index, content in self.loads[0].items():
            image[index] = np.frombuffer(content, np.uint8)
        return image

    def _run(self, offset: int, value: int) -> None:
        number = len(self.loads)
        self.loads.append(self._changed())
        self.steps += [Step(Op.LOAD, 0, number), Step(Op.WRITE, offset, value)]
        registers, machine = self._registers, self._machine
        for region in Region:
            machine.memory[region] = self._memory[self._base(region) - self.base :]
        start = (registers["PROGRAM_LO"] | registers["PROGRAM_HI"] << 32) - self.base
        machine.run(_program(self._memory[start:]))
        self.expects.append(self._changed())
        self.steps += [Step(Op.INTERRUPT), Step(Op.COMPARE, 0, number)]
        registers["ISR"] = 1

    def _changed(self) -> dict[int, bytes]:
        """Words that differ from what the testbench has; from now on it has them."""
        new, old = (m.reshape(-1, WORD) for m in (self._memory, self._known))
        result = {int(i): new[i].tobytes() for i in np.flatnonzero((new != old).any(1))}
        self._known[:] = self._memory
        self._top = max([self._top, *(WORD * (i + 1) for i in result)])
        return result
