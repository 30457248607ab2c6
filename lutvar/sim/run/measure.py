# SPDX-License-Identifier: Apache-2.0
"""Figures of simulated passes: cycles, utilisation, traffic, time, bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lutvar.contract.accelerator import BEAT_BYTES, AcceleratorConfig
from lutvar.contract.isa import UNITS, Unit
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import WRITE_PORTS, read_ports
from lutvar.contract.shape import TransformerShape
from lutvar.host.transformer import PassReport


@dataclass(frozen=True)
class PassFigures:
    """One pass (or several, added): what it computed and what it took.

    Attributes:
        name: of the pass.
        rows: token rows.
        macs: useful multiply-accumulates of the linear layers; passes of dual formats count once.
        cycles: of the device. issue: in which the array multiplied.
        busy: share of the cycles in which each unit worked, by name of the unit.
        traffic: bytes on all memory ports.
        compile_seconds, transfer_seconds, device_seconds: wall time.
        sent, received: bytes between host and memory.
        modelled: cycles in the scheduler's model.
    """

    name: str
    rows: int
    macs: int
    cycles: int
    issue: int
    busy: dict[str, float]
    traffic: int
    compile_seconds: float
    transfer_seconds: float
    device_seconds: float
    sent: int
    received: int
    modelled: int

    @property
    def utilisation(self) -> float:
        """Share of the cycles in which the array multiplied."""
        return self.issue / self.cycles if self.cycles else 0.0

    @property
    def bytes_per_cycle(self) -> float:
        """Mean bandwidth of all ports together."""
        return self.traffic / self.cycles if self.cycles else 0.0


def linear_macs(shape: TransformerShape, rows: int) -> int:
    """Multiply-accumulates of all linear layers for some token rows, the head included."""
    block = shape.width * (4 * shape.width + 2 * shape.hidden)
    return rows * (shape.depth * block + shape.width * shape.vocab)


def figures(name: str, report: PassReport, shape: TransformerShape) -> PassFigures:
    """Figures of one pass."""
    rows = sum(s.tokens * (2 if s.guided else 1) for s in report.steps)
    c = report.counters
    share = {u.name: c.active[u] / c.cycles if c.cycles else 0.0 for u in UNITS}
    share[Unit.MATRIX.name] = c.utilisation
    return PassFigures(
        name, rows, linear_macs(shape, rows), c.cycles, c.issue, share, c.traffic,
        report.compile_seconds, report.transfer_seconds, report.device_seconds, report.sent,
        report.received, report.modelled,
    )  # fmt: skip


def total(name: str, parts: Sequence[PassFigures]) -> PassFigures:
    """Figures of passes one after the other."""
    cycles = sum(p.cycles for p in parts)
    busy = {
        u.name: sum(p.busy[u.name] * p.cycles for p in parts) / cycles if cycles else 0.0
        for u in UNITS
    }
    added = {
        key: sum(getattr(p, key) for p in parts)
        for key in ("rows", "macs", "cycles", "issue", "traffic", "compile_seconds",
                    "transfer_seconds", "device_seconds", "sent", "received", "modelled")
    }  # fmt: skip
    return PassFigures(name=name, busy=busy, **added)


def lanes(config: AcceleratorConfig) -> int:
    """Multiplier lanes of the array: multiply-accumulates a cycle, at most."""
    return config.rows * GROUP


def port_bytes(config: AcceleratorConfig) -> int:
    """Bytes a cycle that all memory ports together can move: one beat on each channel."""
    return (len(read_ports(config.weight_ports)) + len(WRITE_PORTS)) * BEAT_BYTES
