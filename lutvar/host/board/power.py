# SPDX-License-Identifier: Apache-2.0
"""Power of a VCK190's rails during a run, from its INA226 monitors through hwmon.

Which rail a monitor measures follows from its address and from the channel of the I2C multiplexer
that it sits behind, both of which the path of its device tree node tells; the numbers of hwmon say
nothing. Table and factor: AMD, Xilinx/vck190-base-trd, its ina226 device tree nodes and
`sensors_config.py`. Never tried on a board.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .errors import NoPermission
from .files import Files

#: VCCINT comes from a regulator of six phases, and its monitor senses one of them: its current and
#: power count six times (the same factor is in AMD's configuration of the system controller).
VCCINT_PHASES = 6
#: (channel of the multiplexer at 0x74, address) -> rail.
RAILS: Mapping[tuple[int, int], str] = {
    (1, 0x40): "VCCINT", (1, 0x41): "VCC_SOC", (1, 0x42): "VCC_PMC", (1, 0x43): "VCC_RAM",
    (1, 0x44): "VCC_PSLP", (1, 0x45): "VCC_PSFP", (3, 0x40): "VCCAUX", (3, 0x41): "VCCAUX_PMC",
    (3, 0x45): "VCCO_MIO", (3, 0x46): "1V8", (3, 0x47): "3V3", (3, 0x48): "1V2_DDR4",
    (3, 0x49): "1V1_LPDDR4", (3, 0x4A): "VADJ", (3, 0x4B): "MGTYAVCC", (3, 0x4C): "MGTYAVTT",
    (3, 0x4D): "MGTYVCCAUX",
}  # fmt: skip
FACTORS: Mapping[str, int] = {"VCCINT": VCCINT_PHASES}
SECONDS = 0.02  #: between two readings of all rails
_NODE = re.compile(r"i2c@(\d+)/[^/]*@([0-9a-f]+)$")


@dataclass(frozen=True)
class Sensor:
    """A monitor: its rail, its folder's name in /sys/class/hwmon, what its power counts."""

    rail: str
    folder: str
    factor: int


def find_sensors(files: Files) -> list[Sensor]:
    """The monitors of known rails, by rail. Empty without the driver or its nodes."""
    found = []
    for folder in files.names("sys/class/hwmon") or []:
        kind = files.text("sys/class/hwmon", folder, "name") or ""
        if not kind.startswith(("ina226", "ina2xx")):
            continue
        node = os.path.realpath(files.path("sys/class/hwmon", folder, "device/of_node"))
        match = _NODE.search(node)
        rail = RAILS.get((int(match[1]), int(match[2], 16))) if match else None
        if rail is not None:
            found.append(Sensor(rail, folder, FACTORS.get(rail, 1)))
    order = list(RAILS.values())
    return sorted(found, key=lambda sensor: order.index(sensor.rail))


def read_watts(files: Files, sensor: Sensor) -> float | None:
    """Power of a rail now; None when it cannot be read."""
    try:
        text = files.text("sys/class/hwmon", sensor.folder, "power1_input")  # microwatts
        return None if text is None else int(text) * 1e-6 * sensor.factor
    except (NoPermission, ValueError):
        return None


@dataclass
class Energy:
    """What rails took over a time.

    Attributes:
        seconds: of it. samples: readings of each rail.
        joules: by rail.
    """

    seconds: float = 0.0
    samples: int = 0
    joules: dict[str, float] = field(default_factory=dict)

    @property
    def watts(self) -> dict[str, float]:
        """Mean power by rail."""
        return {rail: j / self.seconds for rail, j in self.joules.items()} if self.seconds else {}


class PowerMeter:
    """Reads all rails in a thread of its own, between entering and leaving it.

    with PowerMeter(files) as meter:
        ...
    meter.energy.joules["VCCINT"]

    Args:
        files: of the board.
        seconds: between readings; the monitors average over milliseconds.
        clock: seconds that have passed.

    Attributes:
        sensors: that were found; without any, `energy` stays empty.
    """

    def __init__(
        self, files: Files, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.sensors = find_sensors(files)
        self.energy = Energy()
        self._files, self._seconds, self._clock = files, seconds, clock
        self._stop, self._last = threading.Event(), (0.0, dict[str, float]())
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> PowerMeter:
        if self.sensors:
            self._last = self._clock(), self._read()
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.sensors:
            self._stop.set()
            self._thread.join()
            self.sample()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self.sample()

    def _read(self) -> dict[str, float]:
        values = {s.rail: read_watts(self._files, s) for s in self.sensors}
        return {rail: watts for rail, watts in values.items() if watts is not None}

    def sample(self) -> None:
        """One reading: the mean of it and the one before, over the time between them."""
        then, before = self._last
        now, watts = self._clock(), self._read()
        for rail, value in watts.items():
            mean = (value + before.get(rail, value)) / 2
            self.energy.joules[rail] = self.energy.joules.get(rail, 0.0) + mean * (now - then)
        self.energy.seconds += now - then
        self.energy.samples += 1
        self._last = now, watts
