# SPDX-License-Identifier: Apache-2.0
"""How memory behaves and what happens while a program runs, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.register_map import WRITE_PORTS, read_ports

#: Cycles without progress before the device reports WATCHDOG: above all latencies here.
WATCHDOG = 1500
ORDERS = ("address first", "any order", "data first")
EVENTS: Mapping[str, tuple[str, ...]] = {
    "refuse": ("port", "number", "response"),
    "hold": ("port", "cycle", "cycles"),
    "hard_reset": ("cycle", "cycles", "keep"),
    "soft_reset": ("cycle",),
    "storm": ("cycle", "count", "seed"),
    "wrong_last": ("port", "number"),
}  # fmt: skip


def directions(config: AcceleratorConfig) -> tuple[str, ...]:
    """Names of all directions of the memory ports: "r_prog", ..., "w_values"."""
    reads = (f"r_{port}" for port in read_ports(config.weight_ports))
    return (*reads, *(f"w_{port}" for port in WRITE_PORTS))


@dataclass(frozen=True)
class Pace:
    """How one direction of a port answers: latency in cycles, probabilities of a rest."""

    low: int = 8
    high: int = 8
    address: float = 0.0
    data: float = 0.0


@dataclass(frozen=True)
class Timing:
    """How memory behaves.

    Attributes:
        seed: of all draws.
        paces: by direction of a port; a direction that is missing has the default.
        orders: write port -> index into `ORDERS`.
        bandwidth: bytes in a cycle that all ports share; 0: no limit.
        serial: MODE.serial.
    """

    seed: int = 1
    paces: Mapping[str, Pace] = field(default_factory=dict)
    orders: Mapping[str, int] = field(default_factory=dict)
    bandwidth: int = 0
    serial: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "seed": self.seed,
            "paces": {k: [p.low, p.high, p.address, p.data] for k, p in self.paces.items()},
            "orders": dict(self.orders), "bandwidth": self.bandwidth, "serial": self.serial,
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Timing:
        """The inverse of `as_json`."""
        paces = {k: Pace(*row) for k, row in data["paces"].items()}
        return cls(data["seed"], paces, dict(data["orders"]), data["bandwidth"], data["serial"])


@dataclass(frozen=True)
class Event:
    """Something that happens while a program runs; `values` by the names in `EVENTS`."""

    kind: str
    values: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"kind": self.kind, **self.values}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """The inverse of `as_json`. Raises ValueError."""
        values = {k: v for k, v in data.items() if k != "kind"}
        if data["kind"] not in EVENTS or set(values) != set(EVENTS[data["kind"]]):
            raise ValueError(f"an event {data['kind']!r} with {', '.join(values) or 'nothing'}")
        return cls(data["kind"], values)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def changed(self, **values: Any) -> Event:
        """The same with other values."""
        return replace(self, values={**self.values, **values})


def random_timing(rng: np.random.Generator, config: AcceleratorConfig) -> Timing:
    """A memory: quick or slow, steady or not, its ports alike or each in its own way."""
    style = int(rng.integers(6))
    names = directions(config)
    seed = int(rng.integers(1 << 32))

    def pace(longest: int, rest: float) -> Pace:
        low = int(rng.integers(longest + 1))
        high = low + int(rng.integers(longest + 1))
        return Pace(low, high, round(float(rng.random() * rest), 3),
                    round(float(rng.random() * rest), 3))  # fmt: skip

    if style == 0:
        paces = dict.fromkeys(names, Pace(0, 0))
    elif style == 1:
        paces = dict.fromkeys(names, pace(60, 0.0))
    elif style == 2:
        paces = dict.fromkeys(names, pace(60, 0.5))
    else:  # ports overtake each other
        longest = int(rng.choice([10, 60, 250]))
        rest = float(rng.choice([0.0, 0.3, 0.7]))
        paces = {name: pace(longest, rest) for name in names}
        if style == 5:
            paces[names[int(rng.integers(len(names)))]] = Pace(400, 600, 0.8, 0.8)
    orders = {port: int(rng.integers(len(ORDERS))) for port in WRITE_PORTS}
    bandwidth = int(rng.choice([0, 0, 0, 24, 64, 200]))
    return Timing(seed, paces, orders, bandwidth, bool(rng.integers(8) == 0))


def random_event(rng: np.random.Generator, config: AcceleratorConfig) -> Event:
    """Something that happens while a program runs."""
    names = directions(config)
    port = names[int(rng.integers(len(names)))]
    cycle = int(rng.integers(1, int(rng.choice([40, 300, 1500, 4000]))))
    kind = list(EVENTS)[int(rng.integers(len(EVENTS)))]
    if kind == "wrong_last":
        reads = [name for name in names if name.startswith("r_")]
        port = reads[int(rng.integers(len(reads)))]
        number = int(rng.integers(1, int(rng.choice([2, 20, 100]))))
        return Event(kind, {"port": port, "number": number})
    if kind == "refuse":
        number = int(rng.integers(1, int(rng.choice([2, 4, 12]))))
        return Event(kind, {"port": port, "number": number, "response": int(rng.integers(2, 4))})
    if kind == "hold":
        cycles = int(rng.choice([100, WATCHDOG // 2, 2 * WATCHDOG]))
        return Event(kind, {"port": port, "cycle": cycle, "cycles": cycles})
    if kind == "hard_reset":
        cycles = int(rng.integers(1, 9))
        keep = int(rng.integers(3) > 0)
        return Event(kind, {"cycle": cycle, "cycles": cycles, "keep": keep})
    if kind == "soft_reset":
        return Event(kind, {"cycle": cycle})
    count = int(rng.integers(5, 60))
    return Event("storm", {"cycle": cycle, "count": count, "seed": int(rng.integers(1 << 32))})
