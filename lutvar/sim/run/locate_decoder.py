# SPDX-License-Identifier: Apache-2.0
"""Decodes an image again whose maps or pixels differed, and finds the first wrong instruction.

The golden device decodes it too, the host's share included. Each of its programs runs on the device
as well, on the golden device's memory, so that what one program did wrong is no excuse for the
next; the first program that leaves anything else is searched (`search.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Instruction, Region
from lutvar.host.compile.decoder.plan import DecoderPlan, page
from lutvar.host.compile.program import Note
from lutvar.host.device import Device
from lutvar.host.device_decoder import DeviceDecoder
from lutvar.host.device_status import DeviceCounters
from lutvar.host.errors import HostError
from lutvar.host.transport import Bytes
from lutvar.sim.golden_device import GoldenDevice

from .locate import Located, model_differs
from .locate_tensors import Element, decoder_element
from .search import Divergence, Names, Search

_REGIONS = Region.WORK, Region.IO


def locate_decoder(decoder: DeviceDecoder, latent_ZHW: NDArray[np.float32]) -> Located:
    """Decode an image again and find the first instruction whose results differ.

    Afterwards the device's memory is as it was before, and an error of the device is cleared.

    Args:
        decoder: decoded the image; idle.
        latent_ZHW: its latent map.

    Raises:
        HostError: the device does not come back after a soft reset, or the golden device refuses a
            program.
        BadInput: a latent map that the decoder does not take.
    """
    device, plan = decoder.device, decoder.plan
    before = _memory(device, plan)
    twin = _Twin(decoder)
    again = DeviceDecoder(twin, decoder.packed, plan.base)
    again.programs = decoder.programs  # they are the same, and compiled already
    divergence = None
    try:
        again.raw_image(latent_ZHW)
    except _Found as found:
        divergence = found.divergence
    finally:
        device.soft_reset()
        for region, contents in before.items():
            device.write(region, 0, contents)
    model = model_differs(device, decoder.packed)
    return Located(model, "", divergence, twin.runs, _borders(plan, before[Region.WORK]), "image")


class _Found(Exception):
    """Ends the repetition: the first difference is known."""

    def __init__(self, divergence: Divergence) -> None:
        super().__init__()
        self.divergence = divergence


class _Twin(Device):
    """A golden device that has each of its programs run on the device as well, and compares."""

    def __init__(self, decoder: DeviceDecoder) -> None:
        plan, packed = decoder.plan, decoder.packed
        sizes = len(packed.image), plan.work_size, plan.io_size
        programs = max(len(program) for _, program in decoder.programs)
        config = packed.layout.config
        super().__init__(GoldenDevice(config, size=sum(map(page, (*sizes, programs)))), config)
        self.open()
        self.place(packed.image, plan.work_size, plan.io_size, 0)
        self._other, self._model, self._plan = decoder.device, packed.image, plan
        self.stages = [compiled for compiled, _ in decoder.programs]
        self.runs = self._number = 0

    def run(self, program: bytes, limit: int, what: str = "program") -> DeviceCounters:
        """See `Device.run`. Raises _Found for the first instruction that differs."""
        before = _memory(self, self._plan)
        counters = super().run(program, limit, what)
        compiled, self._number = self.stages[self._number], self._number + 1
        self.runs += 1
        if self._equal(before, program, limit, what):
            return counters
        count, steps = len(self.stages), len(self._plan.shape.steps)
        number, plan = self._number, self._plan

        def name(note: Note) -> str:
            place = f"program {number} of {count}, step {note.block + 1} of {steps}"
            return f"decoder, {place}, {note.what}, tile {note.tile}"

        def element(item: Instruction, note: Note, region: Region, at: int) -> Element | None:
            return decoder_element(item, note, plan, region, at)

        search = Search(
            self._other, self._model, compiled.program, before, Names(name, element),
            compiled.cycles,
        )  # fmt: skip
        divergence = search.first()
        self.runs += search.runs
        if divergence is not None:
            raise _Found(divergence)
        return counters

    def _equal(self, before: dict[Region, Bytes], program: bytes, limit: int, what: str) -> bool:
        """The device leaves what the golden device has left."""
        self._other.soft_reset()
        for region, contents in before.items():
            self._other.write(region, 0, contents)
        try:
            self._other.run(program, limit, what)
        except HostError:
            return False
        after, there = _memory(self, self._plan), _memory(self._other, self._plan)
        return all(np.array_equal(after[region], there[region]) for region in _REGIONS)


def _memory(device: Device, plan: DecoderPlan) -> dict[Region, Bytes]:
    """Maps, what lies before them, and what host and device hand each other."""
    sizes = plan.work_size, plan.io_size
    return {r: device.read(r, 0, size) for r, size in zip(_REGIONS, sizes, strict=True)}


def _borders(plan: DecoderPlan, work: Bytes) -> str:
    """The first border of a map that is not zero; empty if all are."""
    for place in plan.places:
        if not place.activated:
            continue
        of = plan.activated(place)
        raw = work[of.offset : of.offset + of.size].reshape(of.side + 2, of.side + 2, of.pixel)
        border = raw.copy()
        border[1:-1, 1:-1] = 0
        wrong = np.argwhere(border)
        if wrong.size:
            line, pixel, byte = (int(x) for x in wrong[0])
            return (
                f"the border of map {place.name} ({of.side} x {of.side}, {of.channels} channels) "
                f"is not zero, first at line {line - 1}, pixel {pixel - 1}, channel {byte // 2}: "
                "something has written there"
            )
    return ""
