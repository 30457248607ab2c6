# SPDX-License-Identifier: Apache-2.0
"""Parts of the host's work for an image of d30 at 256 px: sampling, and its share of decoding.

Values are random with the sizes of the model; no time depends on them but the sampler's, whose
logits are spread as those of trained models are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.decoder import Attend, DecoderShape
from lutvar.contract.decoder_form import shipped_form
from lutvar.contract.decoder_host import attention
from lutvar.contract.decoder_memory import map_bytes
from lutvar.contract.isa import UNITS, Region
from lutvar.contract.sampling import TokenStream
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.decoder.layout import DecoderLayout
from lutvar.host.compile.decoder.pack import PackedDecoder
from lutvar.host.device import Device
from lutvar.host.device_decoder import DeviceDecoder
from lutvar.host.device_status import DeviceCounters
from lutvar.host.turns import Turns

from .report import Measurement

MODEL, CONFIG = "d30", "vck190-fp4"
TOP_K, TOP_P = 900, 0.96
SPREAD = 2.0  #: standard deviation of a row's logits
SAMPLING_MS = 20
RUNS = 9  #: the fastest counts: other programs of the machine only add


def sampling_speed() -> list[Measurement]:
    """Milliseconds of processor for all tokens of an image, random bits apart."""
    shape = TransformerShape.official(MODEL)
    rng = np.random.default_rng(1)
    scales = [
        rng.standard_normal((count, shape.vocab), np.float32) * np.float32(SPREAD)
        for count in shape.scale_tokens
    ]
    bits, draws = [], []
    for seed in range(RUNS):
        stream, drawing = TokenStream(seed), 0.0
        started = time.process_time()
        for logits in scales:
            stream.ahead(logits.size)
            stream.wait()
            begun = time.process_time()
            stream.draw_filtered(logits, TOP_K, TOP_P)
            drawing += time.process_time() - begun
        bits.append(time.process_time() - started - drawing)
        draws.append(drawing)
    name = f"sampling, {shape.tokens} tokens of {shape.vocab:,}"
    return [
        _line(name, min(draws), SAMPLING_MS),
        _line("random bits of these tokens, made while the device computes", min(bits)),
    ]


class _DecodingDevice:
    """What `DeviceDecoder` needs of a device, with programs that take no time.

    Programs and maps are copied as a driver copies them; what is read is random.
    """

    def __init__(self, size: int) -> None:
        self.data = np.random.default_rng(1).standard_normal(size // 4, np.float32).view(np.uint8)
        self.memory = np.zeros(size, np.uint8)
        self.turns = Turns()

    def read(self, _region: Region, _offset: int, count: int) -> NDArray[np.uint8]:
        """Copy a map or sums."""
        return self.data[:count].copy()

    def write(self, _region: Region, _offset: int, data: NDArray[np.uint8]) -> None:
        """Copy a map or vectors."""
        self.memory[: len(data)] = data

    def run(self, program: bytes, _limit: int, _what: str) -> DeviceCounters:
        """Copy a program."""
        self.memory[: len(program)] = np.frombuffer(program, np.uint8)
        none = (0,) * len(UNITS)
        return DeviceCounters(1, none, none, none, 0, 0, {}, {})


def decoder_share_speed() -> list[Measurement]:
    """Milliseconds of processor for what the host does while the device decodes an image."""
    config, shape = load_accelerator(CONFIG), DecoderShape.official()
    layout = DecoderLayout.of(shape, shipped_form(config.quant_config), config, 0)
    norms = (1e-6,) * len(layout.norms)
    packed: Any = SimpleNamespace(
        decoder=PackedDecoder(layout, (0,) * layout.sets, norms),
        image=np.zeros(layout.end, np.uint8), hash=0,
    )  # fmt: skip
    device: Any = _DecodingDevice(max(map_bytes(shape).values()))
    decode = DeviceDecoder(cast(Device, device), packed)
    rng = np.random.default_rng(1)
    latent = rng.standard_normal((1, shape.z_channels, *2 * (shape.latent_side,)), np.float32)
    decode(latent)  # compiles the programs
    maps = [
        rng.standard_normal((1, step.side**2, 3 * step.channels), np.float32)
        for step in shape.steps
        if isinstance(step, Attend)
    ]
    codes = [x.astype(np.float64) for one in maps for x in np.split(one[0], 3, -1)[:2]]

    def attend() -> None:
        for one in maps:
            attention(one)

    def products() -> None:
        for q, k in zip(codes[::2], codes[1::2], strict=True):
            (q @ k.T) @ k

    return [
        _line("decoder on the device: host's share", _fastest(lambda: decode(latent))),
        _line(f"of it attention at {len(maps)} places", _fastest(attend)),
        _line("of that matrix products", _fastest(products)),
    ]


def _fastest(work: Callable[[], object]) -> float:
    found = []
    for _ in range(RUNS):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


def _line(name: str, seconds: float, target: float | None = None) -> Measurement:
    return Measurement(name, 1e3 * seconds, "ms of processor", "timed", target)
