# SPDX-License-Identifier: Apache-2.0
"""Repeats a pass whose results differed, and finds the first instruction that is wrong.

`search.py` says how. The cache of earlier passes must still be as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Instruction, Region
from lutvar.contract.passes import ImageStep
from lutvar.host.compile.compiler import CompiledPass
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.program import Note
from lutvar.host.device import Device
from lutvar.host.stopped import place_in_pass
from lutvar.host.transformer import DeviceTransformer
from lutvar.host.transport import as_bytes

from .locate_tensors import Element, element_of, part_of_decoder, part_of_model
from .search import Divergence, Names, Search


@dataclass(frozen=True)
class Located:
    """What repeating has shown.

    Attributes:
        model: which part of the model in device memory is not what was packed; empty if all is.
        program: how the program itself disagrees with the golden model; empty if it agrees.
        divergence: the first instruction whose results differ, or None: it did not happen again.
        runs: programs that the device ran.
        memory: what the programs rely on in memory and was not there; empty if all was.
        what: was repeated.
    """

    model: str
    program: str
    divergence: Divergence | None
    runs: int
    memory: str = ""
    what: str = "pass"

    def __str__(self) -> str:
        lines = [line for line in (self.model, self.memory, self.program) if line]
        lines.append(
            str(self.divergence)
            if self.divergence
            else f"the {self.what} was repeated and nothing differed: it depends on time, or on "
            "memory that was written in between"
        )
        return "\n".join(lines)


def locate(
    transformer: DeviceTransformer,
    steps: Sequence[ImageStep],
    expected: Sequence[NDArray[np.float32]] | None = None,
) -> Located:
    """Repeat a pass and find the first instruction whose results differ.

    Afterwards the device's memory is as it was before, and an error of the device is cleared.

    Args:
        transformer: ran the pass; nothing has run since.
        steps: of the pass.
        expected: logits of the golden model, to check the program itself.

    Raises:
        HostError: the device does not come back after a soft reset.
    """
    device, compiled = transformer.device, transformer.compile(steps)
    plan = compiled.plan
    sizes = {
        Region.WORK: plan.work_size, Region.IO: plan.io_size, Region.CACHE: plan.cache_size,
    }  # fmt: skip
    before = {region: device.read(region, 0, size) for region, size in sizes.items()}
    given = {region: contents.copy() for region, contents in before.items()}
    raw = as_bytes(compiled.embeddings(steps))
    given[Region.IO][: raw.size] = raw

    def element(item: Instruction, note: Note, region: Region, at: int) -> Element | None:
        return element_of(item, note, plan, region, at)

    search = Search(
        device, transformer.packed.image, compiled.program, given, Names(place_in_pass, element),
        compiled.cycles,
    )  # fmt: skip
    program = _program_differs(compiled, search, expected) if expected is not None else ""
    divergence = search.first()
    for region, contents in before.items():
        device.write(region, 0, contents)
    return Located(model_differs(device, transformer.packed), program, divergence, search.runs)


def _program_differs(
    compiled: CompiledPass, search: Search, expected: Sequence[NDArray[np.float32]]
) -> str:
    first = compiled.logits_first
    raw = search.end[Region.IO][first : first + compiled.logits_bytes]
    for k, (a, b) in enumerate(zip(compiled.logits(raw), expected, strict=True)):
        wrong = np.argwhere(a.view(np.uint32) != b.view(np.uint32))
        if wrong.size:
            return (
                f"the compiled program itself gives other logits than the golden model, first "
                f"logits.{k}{wrong[0].tolist()}: look into the compiler or the packed model"
            )
    return ""


def model_differs(device: Device, packed: PackedTransformer) -> str:
    """What is not in the device's memory as it was packed; empty if all is."""
    image = packed.image
    wrong = np.flatnonzero(device.read(Region.MODEL, 0, len(image)) != image)
    if not wrong.size:
        return ""
    at = int(wrong[0])
    if packed.decoder is not None and at >= packed.layout.size:
        part = part_of_decoder(packed.decoder.layout, at)
    else:
        part = part_of_model(packed.layout, at)
    return (
        f"{wrong.size} bytes of the model in device memory are not what was packed, first "
        f"MODEL+{at:#x}: {part}"
    )
