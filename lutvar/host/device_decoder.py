# SPDX-License-Identifier: Apache-2.0
"""The decoder on the device: a latent map goes in, programs and the host's share alternate, pixels
come out.

with Session.open("uio:lutvar", packed) as session:
    images = session.decoder(latents)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lutvar.contract import column_sums
from lutvar.contract.decoder import Attend, Conv, Norm, stored_channels
from lutvar.contract.decoder_host import (
    Float32,
    Sums,
    attention,
    fp16,
    need_finite,
    pixels,
    vectors,
)
from lutvar.contract.decoder_memory import check_decoder, target_place
from lutvar.contract.errors import ConfigError
from lutvar.contract.isa import Region
from lutvar.host.compile.decoder.compiler import CompiledStage, DecoderCompiler
from lutvar.host.compile.decoder.plan import DecoderPlan, Map
from lutvar.host.compile.packed import PackedTransformer

from .device import Device
from .errors import BadInput
from .load import CHUNK
from .stopped import run_program
from .transport import Bytes, as_bytes


@dataclass
class DecodeReport:
    """What decoding one image took.

    Attributes:
        programs, instructions: run, and END included.
        cycles: of the device, all programs.
        modelled: the same in the scheduler's model.
        device_seconds: wall time of the programs (of a simulated device: of the simulation).
        host_seconds: vectors, attention and pixels.
        transfer_seconds: between host and device memory, programs not included.
        waited_seconds: until other threads left the device to this image.
    """

    programs: int = 0
    instructions: int = 0
    cycles: int = 0
    modelled: int = 0
    device_seconds: float = 0.0
    host_seconds: float = 0.0
    transfer_seconds: float = 0.0
    waited_seconds: float = 0.0


class DeviceDecoder:
    """Images of latent maps, one after the other; a thread waits while another one has the maps.

    Args:
        device: opened; memory is placed before the first image (`sizes`).
        packed: with a decoder.
        base: offset in WORK behind the transformer's tensors.
        check: prove the order of every program before it runs (slow for large decoders).
        on_image: called after each image.
        on_stage: called after each program, with it.

    Attributes:
        packed: the model.

    Raises:
        BadInput: the packed model has no decoder.
    """

    def __init__(
        self,
        device: Device,
        packed: PackedTransformer,
        base: int = 0,
        *,
        check: bool = False,
        on_image: Callable[[DecodeReport], None] | None = None,
        on_stage: Callable[[CompiledStage], None] | None = None,
    ) -> None:
        if packed.decoder is None:
            raise BadInput(
                "the packed model has no decoder; pack it with one, or decode on the host"
            )
        self.device, self.on_image, self.on_stage = device, on_image, on_stage
        self.packed, self._decoder, self._image = packed, packed.decoder, packed.image
        self._compiler = DecoderCompiler(packed.decoder, base, packed.hash, check=check)
        self._shape = packed.decoder.layout.shape
        self._report = DecodeReport()
        self._sums: dict[str, Sums] = {}
        self._clear = False
        self._inputs: list[tuple[Region, int, Bytes]] = []
        self._maps = threading.RLock()

    @property
    def plan(self) -> DecoderPlan:
        """Where the maps lie, and how much memory they need."""
        return self._compiler.plan

    def check_memory(self, there: int, which: str = "") -> None:
        """Raise BadInput, naming the maps, and `which` maps, unless so many bytes hold them."""
        layout = self._decoder.layout
        try:
            check_decoder(self._shape, layout.form, layout.config, there)
        except ConfigError as error:
            raise BadInput(f"{which}{error}") from error

    @cached_property
    def programs(self) -> list[tuple[CompiledStage, bytes]]:
        """All programs of an image and their bytes: compiled once."""
        made = map(self._compiler.compile, self._compiler.stages)
        return [(stage, stage.program.encode()) for stage in made]

    def __call__(self, latents_BZHW: Float32) -> Float32:
        """Images in [0, 1], [B, channels, H, W], of latent maps [B, Z, h, w].

        Raises:
            BadInput: latent maps of another size, or with a value that is not finite.
            AcceleratorError, ProgramTimeout: see `Device.run`.
        """
        images = [pixels(self.raw_image(latent)) for latent in latents_BZHW]
        return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))

    def raw_image(self, latent_ZHW: Float32) -> Float32:
        """Image before it is limited, [H, W, channels] float32; errors as of `__call__`."""
        shape = self._shape
        want = (shape.z_channels, shape.latent_side, shape.latent_side)
        if latent_ZHW.shape != want:
            raise BadInput(f"latent map of shape {latent_ZHW.shape}: this decoder takes {want}")
        try:
            need_finite("latent map", latent_ZHW)
        except ValueError as error:
            raise BadInput(str(error)) from error
        side, channels = shape.image_side, shape.image_channels
        with self._maps:
            self._report, self._inputs = DecodeReport(), []
            self._begin(latent_ZHW)
            for number, (stage, program) in enumerate(self.programs, 1):
                if stage.stage.attend is not None:
                    self._attend(stage.stage.attend)
                if stage.stage.norm is not None:
                    self._vectors(stage.stage.norm)
                # IO is everybody's: what is written there is read before the turn ends.
                with self._turn():
                    self._write_inputs()
                    self._run(number, stage, program)
                    if stage.stage.sums is not None:
                        self._read_sums(stage.stage.sums)
            with self._turn():
                raw = self._read_raw(self.plan.raw("image", side, channels))
            if self.on_image is not None:
                self.on_image(self._report)
        return raw[..., :channels]

    def read_map(self, step: Conv | Norm | Attend) -> NDArray[np.generic]:
        """A step's result as it lies in the device's memory, [S, S, C], without a border."""
        if isinstance(step, Conv):
            side = step.side * (2 if step.double else 1)
            return self._read_raw(self.plan.raw(step.target, side, step.outputs))
        of = self.plan.activated(target_place(step))
        raw = self.device.read(of.region, of.offset, of.size)
        return np.ascontiguousarray(_framed(raw, of)[1:-1, 1:-1]).view(np.float16)

    # Host's share ----------------------------------------------------------------------------
    def _begin(self, latent_ZHW: Float32) -> None:
        """Borders, once, and the latent map."""
        plan = self.plan
        if not self._clear:
            with self._turn():
                started = time.monotonic()
                for place, (offset, size) in plan.places.items():
                    if place.activated:
                        for at in range(0, size, CHUNK):
                            zeros = np.zeros(min(CHUNK, size - at), np.uint8)
                            self.device.write(Region.WORK, offset + at, zeros)
                self._report.transfer_seconds += time.monotonic() - started
            self._clear = True
        started, latent = time.monotonic(), plan.latent
        raw = np.zeros(plan.latent_bytes, np.uint8)
        inner = _framed(raw[: latent.size], latent)[1:-1, 1:-1]
        values = fp16(np.ascontiguousarray(latent_ZHW.transpose(1, 2, 0), np.float32))
        inner[..., : values.shape[-1]] = values.view(np.uint16)
        self._inputs.append((latent.region, latent.offset, raw))
        self._report.transfer_seconds += time.monotonic() - started

    def _vectors(self, norm: Norm) -> None:
        """Scale and shift of a norm to IO, as often as a row of NORM has pixels."""
        started = time.monotonic()
        plan, times = self.plan, self.plan.norm_pixels(norm)
        weight, bias, eps = self._decoder.norm(self._image, norm.name)
        made = vectors(self._sums[norm.source], norm.side**2, weight, bias, eps)
        for offset, vector in zip((plan.scale, plan.shift), made, strict=True):
            self._inputs.append((Region.IO, offset, as_bytes(vector.repeat(times, 0))))
        self._report.host_seconds += time.monotonic() - started

    def _write_inputs(self) -> None:
        """What the next program reads in IO."""
        started = time.monotonic()
        for region, offset, data in self._inputs:
            self.device.write(region, offset, data)
        self._inputs = []
        self._report.transfer_seconds += time.monotonic() - started

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """The device to this thread alone."""
        with self.device.turns as waited:
            self._report.waited_seconds += waited
            yield

    def _read_sums(self, conv: Conv) -> None:
        """The sums of a map: those of all columns that are of the same channel."""
        started = time.monotonic()
        size = conv.columns * column_sums.COLUMN_BYTES
        raw = self.device.read(Region.IO, self.plan.sums, size)
        channels = stored_channels(conv.outputs)
        values, squares = (x.reshape(-1, channels) for x in column_sums.unpack(raw))
        self._sums[conv.target] = Sums(values.sum(0)[None], squares.sum(0)[None])
        self._report.transfer_seconds += time.monotonic() - started

    def _attend(self, step: Attend) -> None:
        """Attention: reads q, k and v, writes its result between the zeros of its border."""
        with self._turn():
            started = time.monotonic()
            raw = self._read_raw(self.plan.raw(step.source, step.side, 3 * step.channels))
            got = time.monotonic()
        result = attention(raw.reshape(1, step.side**2, -1))
        target = self.plan.activated(target_place(step))
        whole = np.zeros(target.size, np.uint8)
        values = result.reshape(step.side, step.side, -1).view(np.uint16)
        _framed(whole, target)[1:-1, 1:-1] = values
        ready = time.monotonic()
        with self._turn():
            writing = time.monotonic()
            self.device.write(target.region, target.offset, whole)
            written = time.monotonic()
        self._report.host_seconds += ready - got
        self._report.transfer_seconds += got - started + written - writing

    def _run(self, number: int, stage: CompiledStage, program: bytes) -> None:
        started = time.monotonic()
        what = f"decoder, program {number} of {len(self.programs)}, up to {stage.stage.name}"
        steps = len(self._shape.steps)
        counters = run_program(
            self.device, program, stage.cycles, what, lambda: stage.program,
            lambda note: f"step {note.block + 1} of {steps} ({note.what})",
        )  # fmt: skip
        report = self._report
        report.programs += 1
        report.instructions += len(stage.program.instructions)
        report.cycles += counters.cycles
        report.modelled += stage.cycles
        report.device_seconds += time.monotonic() - started
        if self.on_stage is not None:
            self.on_stage(stage)

    def _read_raw(self, of: Map) -> Float32:
        raw = self.device.read(of.region, of.offset, of.size)
        return raw.view(np.float32).reshape(of.side, of.side, of.channels)


def _framed(raw: Bytes, of: Map) -> NDArray[np.uint16]:
    """An activated map with its border, [S + 2, S + 2, C], as FP16 patterns."""
    side = of.side + 2 * of.border
    return raw.view(np.uint16).reshape(side, side, of.channels)
