# SPDX-License-Identifier: Apache-2.0
"""A packed model on the program interpreter: compiled passes without a simulator."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Region
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.compiler import CompiledPass
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.program import Program
from lutvar.host.compile.steps import StepShape
from lutvar.host.turns import Turns
from lutvar.sim.interpret import Machine


class Device:
    """The interpreter behind the transformer protocol."""

    def __init__(self, model: PackedTransformer, rng: np.random.Generator | None) -> None:
        self.model, self.rng, self.compiler = model, rng, model.compiler()
        self.cache = np.zeros(0, np.uint8)
        self.compiled: CompiledPass | None = None

    def run(self, steps: list[ImageStep]) -> list[NDArray[np.float32]]:
        compiled = self.compiler.compile([StepShape.of(s) for s in steps], check=True)
        plan = compiled.plan
        machine = Machine(
            self.model.layout.config,
            {Region.WORK: plan.work_size, Region.IO: plan.io_size},
        )
        grown = np.zeros(max(plan.cache_size, self.cache.size), np.uint8)
        grown[: self.cache.size] = self.cache
        machine.memory |= {Region.MODEL: self.model.image, Region.CACHE: grown}
        raw = compiled.embeddings(steps).view(np.uint8).reshape(-1)
        machine.memory[Region.IO][: raw.size] = raw
        machine.run(compiled.program, self.rng)
        self.cache, self.compiled = grown, compiled
        first = compiled.logits_first
        return compiled.logits(machine.memory[Region.IO][first : first + compiled.logits_bytes])


class Driver:
    """The interpreter with what `host.device.Device` offers; memory holds anything at first."""

    def __init__(
        self, model: PackedTransformer, work: int, io: int, rng: np.random.Generator | None
    ) -> None:
        self.machine = Machine(model.layout.config, {Region.WORK: work, Region.IO: io})
        for raw in self.machine.memory.values():
            raw[:] = 0xFF  # of FP16 and float32 no number
        self.machine.memory[Region.MODEL] = model.image
        self.rng, self.turns = rng, Turns()

    def write(self, region: Region, offset: int, data: NDArray[np.uint8]) -> None:
        self.machine.memory[region][offset : offset + len(data)] = data

    def read(self, region: Region, offset: int, count: int) -> NDArray[np.uint8]:
        return self.machine.memory[region][offset : offset + count].copy()

    def run(self, program: bytes, limit: int, what: str = "program") -> Any:
        assert limit > 0 and what
        self.machine.run(Program.decode(program), self.rng)
        return SimpleNamespace(cycles=len(program))


def step(rng: Any, slot: int, label: int, position: int, tokens: int, **more: Any) -> ImageStep:
    x = [rng.standard_normal((tokens, 256)).astype(np.float32) for _ in range(2)]
    if not more.get("guided", True):
        return ImageStep(slot, label, position, x[0], None)
    return ImageStep(slot, label, position, x[0], x[1], more.get("guidance", 0.5))
