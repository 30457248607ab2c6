# SPDX-License-Identifier: Apache-2.0
"""A small pass on the simulated accelerator, for programs that go wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.isa import Region
from lutvar.contract.passes import ImageStep
from lutvar.host import AcceleratorError
from lutvar.host.compile.compiler import CompiledPass

from .device_rig import Rig, digits, image_step, open_rig, same


@dataclass
class Small:
    """A pass of one token without guidance, and what it gives."""

    rig: Rig
    steps: list[ImageStep]
    expected: list[np.ndarray]
    compiled: CompiledPass

    def right(self) -> None:
        """It runs, and gives what it should."""
        assert same(self.rig.transformer.run(self.steps), self.expected)

    def fails(self, program: bytes | None = None) -> AcceleratorError:
        """The program (default: the right one) ends in an error; a soft reset clears it."""
        device = self.rig.device
        program = self.compiled.program.encode() if program is None else program
        with pytest.raises(AcceleratorError) as caught:
            device.run(program, 1_000_000)
        with pytest.raises(AcceleratorError):  # nothing runs before the soft reset
            device.run(self.compiled.program.encode(), 1_000_000)
        device.soft_reset()
        assert not device.register("ERROR") and not device.register("STATE") >> 29 & 1
        return caught.value

    def line(self, region: Region, offset: int) -> int:
        """Address, as the device sees it."""
        name = f"BASE{int(region)}"
        base = self.rig.device.register(f"{name}_LO") | self.rig.device.register(f"{name}_HI") << 32
        return base + offset


@contextmanager
def open_small(verilog: Path) -> Iterator[Small]:
    """The pass on a new simulation, with a watchdog of 3,000 cycles."""
    with open_rig(verilog, digits().transformer, watchdog=3000) as rig:
        step = image_step(np.random.default_rng(1), 0, 3, 0, 1, width=128, guided=False)
        expected = rig.golden.run([step])
        yield Small(rig, [step], expected, rig.transformer.compile([step]))
