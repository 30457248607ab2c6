# SPDX-License-Identifier: Apache-2.0
"""The transformer on the device: passes become programs, embeddings go in, logits come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Region
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.compiler import CompiledPass, Compiler
from lutvar.host.compile.decoder.plan import page
from lutvar.host.compile.memory_plan import MemoryPlan
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.steps import StepShape
from lutvar.host.compile.store import PassStore

from .device import Device
from .device_decoder import DeviceDecoder
from .device_status import DeviceCounters
from .errors import BadInput
from .load import Progress
from .stopped import place_in_pass, run_program
from .transport import as_bytes


@dataclass(frozen=True)
class PassReport:
    """What one pass took.

    Attributes:
        steps: what it computed.
        instructions: of the program, END included.
        counters: of the device.
        modelled: cycles in the scheduler's model.
        compiled: the program and its rows.
        compile_seconds, transfer_seconds, device_seconds: wall time on the host (of a simulated
            device: of the simulation).
        sent, received: bytes between host and device memory, the program included.
        waited_seconds: until other threads left the device to this pass.
    """

    steps: tuple[StepShape, ...]
    instructions: int
    counters: DeviceCounters
    modelled: int
    compile_seconds: float
    transfer_seconds: float
    device_seconds: float
    sent: int
    received: int
    compiled: CompiledPass
    waited_seconds: float = 0.0


class DeviceTransformer:
    """`lutvar.contract.passes.Transformer` on an accelerator.

    Several threads may run passes, each with slots of its own.

    Args:
        device: opened.
        packed: the model, packed for the device's configuration.
        slots: images that can be in progress at once.
        check: prove the order of every program before it runs (slow for large models).
        on_pass: called after each pass.
        keep: leave the model in the device's memory, and use one that is there.
        progress: called with the bytes of the model that are in place.
        cache: folder of compiled passes for this and other processes
            (`compile.pass_file.default_folder`); None: none.
        tile_rows, sections: of every pass, instead of the compiler's choice; see `Compiler`.
        decode: leave room for the maps of a packed decoder.
        groups: threads that may decode at the same time, each with maps of its own.

    Attributes:
        decoder: the packed model's on the same device; None without one, or without `decode`.
        decoders: one for each group, the first one included; empty where there is none.

    Raises:
        BadInput: the device's memory is too small.
        CompileError: tiles that the accelerator cannot have.
    """

    def __init__(
        self,
        device: Device,
        packed: PackedTransformer,
        slots: int,
        *,
        check: bool = False,
        on_pass: Callable[[PassReport], None] | None = None,
        keep: bool = False,
        progress: Progress | None = None,
        cache: Path | None = None,
        tile_rows: int | None = None,
        sections: int | None = None,
        decode: bool = True,
        groups: int = 1,
    ) -> None:
        self.device, self.packed, self.on_pass = device, packed, on_pass
        self.slots = slots
        layout = packed.layout
        self.compiler = Compiler(
            layout, packed.exponents, packed.epsilon, packed.null_label, packed.hash,
            tile_rows=tile_rows, sections=sections,
        )  # fmt: skip
        self.passes = PassStore(self.compiler, cache, check=check)
        largest = self._largest()
        work, io, kept = largest.work_size, largest.io_size, slots * largest.slot_bytes
        self.decoders: list[DeviceDecoder] = []
        for group in range(groups if packed.decoder is not None and decode else 0):
            made = DeviceDecoder(device, packed, page(work), check=check)
            io = max(io, made.plan.io_size)
            others = sum(map(page, (len(packed.image), work, io, kept)))
            if others <= device.transport.size:  # else `place` says so
                which = f"group {group + 1} of {groups}: " if groups > 1 else ""
                made.check_memory(device.transport.size - others, which)
            work = made.plan.work_size
            self.decoders.append(made)
        self.decoder = self.decoders[0] if self.decoders else None
        need = sum(map(page, (len(packed.image), work, io, kept)))
        if groups > 1 and need > device.transport.size:
            raise BadInput(
                f"{groups} groups with {slots} slots need {need:,} bytes (model "
                f"{len(packed.image):,}, slots {kept:,}, maps and tensors {work + io:,}); the "
                f"device has {device.transport.size:,}: use fewer groups, fewer slots or more "
                "memory"
            )
        device.place(
            packed.image, work, io, kept, digest=packed.digest() if keep else None,
            progress=progress,
        )  # fmt: skip

    def _largest(self) -> MemoryPlan:
        """The plan of the largest pass: every slot at the last scale."""
        shape = self.packed.layout.shape
        tokens = max(shape.scale_tokens)
        steps = [StepShape(i, self.packed.null_label, shape.tokens - tokens, tokens)
                 for i in range(self.slots)]  # fmt: skip
        return MemoryPlan(shape, self.compiler.most_rows(steps))

    def compile(self, steps: Sequence[ImageStep]) -> CompiledPass:
        """The program of a pass; what differs in classes, slots and guidance is compiled once."""
        return self.passes.get([StepShape.of(step) for step in steps])

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        """Logits of each step, float32 [n, vocab]; the caches are in the device's memory.

        Raises:
            CompileError: steps that the accelerator cannot run.
            AcceleratorError, ProgramTimeout: see `Device.run`; they name block and instruction.
        """
        started = time.monotonic()
        compiled = self.compile(steps)
        program = compiled.encode()
        ready = time.monotonic()
        embeddings = as_bytes(compiled.embeddings(steps))
        with self.device.turns as waited:
            self.device.write(Region.IO, 0, embeddings)
            sent = time.monotonic()
            counters = run_program(
                self.device, program, compiled.cycles, f"pass of {len(steps)} image steps",
                lambda: compiled.program, place_in_pass,
            )  # fmt: skip
            finished = time.monotonic()
            raw = self.device.read(Region.IO, compiled.logits_first, compiled.logits_bytes)
        logits = compiled.logits(raw)
        if self.on_pass is not None:
            self.on_pass(
                PassReport(
                    compiled.rows.steps,
                    compiled.instructions,
                    counters,
                    compiled.cycles,
                    ready - started,
                    sent - ready - waited + time.monotonic() - finished,
                    finished - sent,
                    len(embeddings) + len(program),
                    len(raw),
                    compiled,
                    waited,
                )
            )
        return logits
