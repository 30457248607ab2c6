# SPDX-License-Identifier: Apache-2.0
"""How fast a device computes images: by the clock on the wall, by its own counters, by its rails.

What is measured is the transformer: embeddings in, logits out, for every pass of an image.
Sampling and decoding are not in it. On devices that are no board only cycles and bytes are
reported: their seconds are those of a simulation.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lutvar.contract.accelerator import BEAT_BYTES
from lutvar.contract.passes import ImageStep, guidance_at
from lutvar.contract.register_map import READ_PORTS, WRITE_PORTS
from lutvar.host.open import Address
from lutvar.host.session import Session
from lutvar.host.transformer import PassReport

from .files import MARK, Files
from .power import PowerMeter

IDLE_SECONDS = 1.0  #: of power before the run
_CFG = 1.5
#: What figures of a device are, by scheme; those of boards are measured.
_KINDS = {"sim": "simulated", "golden": "modelled", "replay": "replayed"}


def kind_of(address: Address) -> str:
    """What its figures are: "measured" on a board and nowhere else."""
    if address.scheme in _KINDS:
        return _KINDS[address.scheme]
    fake = address.root != Path("/") or (address.root / MARK).exists()
    return "fake board" if fake else "measured"


@dataclass
class Measurement:
    """What a number of images took.

    Attributes:
        kind: of all figures, see `kind_of`.
        images, passes: without the first round, which compiles and warms up.
        cycles: of the device. issue: in which the array multiplied.
        traffic: bytes by port and direction, such as "wgt read".
        seconds: on the wall. device_seconds: of them, in programs; both None unless measured.
        idle_watts: before the run; joules: during it; by rail; empty without sensors.
    """

    kind: str
    images: int = 0
    passes: int = 0
    cycles: int = 0
    issue: int = 0
    traffic: dict[str, int] = field(default_factory=dict)
    seconds: float | None = None
    device_seconds: float | None = None
    idle_watts: dict[str, float] = field(default_factory=dict)
    joules: dict[str, float] = field(default_factory=dict)

    def add(self, report: PassReport) -> None:
        """A pass."""
        counters = report.counters
        self.passes += 1
        self.cycles += counters.cycles
        self.issue += counters.issue
        moved = {f"{p} read": counters.read_beats[p] for p in READ_PORTS}
        moved |= {f"{p} write": counters.write_beats[p] for p in WRITE_PORTS}
        for port, beats in moved.items():
            if beats:
                self.traffic[port] = self.traffic.get(port, 0) + beats * BEAT_BYTES

    @property
    def images_per_second(self) -> float | None:
        """None unless measured."""
        return self.images / self.seconds if self.seconds else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data, with what follows from the figures."""
        images, cycles = max(self.images, 1), max(self.cycles, 1)
        return {
            **asdict(self), "images_per_second": self.images_per_second,
            "cycles_per_image": self.cycles / images,
            "array_busy": self.issue / cycles,
            "bytes_per_cycle": {port: n / cycles for port, n in self.traffic.items()},
            "joules_per_image": {rail: j / images for rail, j in self.joules.items()},
        }  # fmt: skip


def measure(session: Session, address: Address, rounds: int) -> Measurement:
    """Compute `rounds` times as many images as the session has slots, and once more before.

    Args:
        session: just opened, with `on_pass` free.
        address: what it was opened with.
        rounds: at least 1.
    """
    result = Measurement(kind_of(address))
    transformer = session.transformer
    reports: list[PassReport] = []
    transformer.on_pass = reports.append
    _round(session, 0)
    reports.clear()
    board, files = result.kind == "measured", Files.under(address.root)
    if board:
        with PowerMeter(files) as idle:
            time.sleep(IDLE_SECONDS if idle.sensors else 0.0)
        result.idle_watts = idle.energy.watts
    with PowerMeter(files) as meter:
        started = time.monotonic()
        for number in range(rounds):
            _round(session, number + 1)
        seconds = time.monotonic() - started
    result.images = rounds * transformer.slots
    for report in reports:
        result.add(report)
    if board:
        result.seconds = seconds
        result.device_seconds = sum(report.device_seconds for report in reports)
        result.joules = meter.energy.joules
    return result


def _round(session: Session, seed: int) -> None:
    """One guided image in every slot, all at the same scale in each pass."""
    transformer = session.transformer
    packed, rng = transformer.packed, np.random.default_rng(seed)
    shape = packed.layout.shape
    labels = [label for label in packed.layout.labels if label != packed.null_label]
    position = 0
    for scale, tokens in enumerate(shape.scale_tokens):
        guidance = guidance_at(_CFG, scale, len(shape.scale_tokens))
        x = rng.standard_normal((transformer.slots, 2, tokens, shape.width)).astype(np.float32)
        transformer.run([
            ImageStep(slot, labels[slot % len(labels)], position, x[slot, 0], x[slot, 1], guidance)
            for slot in range(transformer.slots)
        ])  # fmt: skip
        position += tokens
