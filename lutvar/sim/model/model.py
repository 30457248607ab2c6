# SPDX-License-Identifier: Apache-2.0
"""Modelled speed of a model on an accelerator: images a second, latency, what bounds each pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import UNITS, Unit
from lutvar.contract.quant_preset import SITE_NAMES, QuantConfig
from lutvar.contract.shape import TransformerShape
from lutvar.contract.terms import Terms
from lutvar.host.compile.compiler import Compiler
from lutvar.host.compile.costs import PORTS, UnitTimes
from lutvar.host.compile.model_layout import HIDDEN_VECTORS, ModelLayout
from lutvar.host.compile.tiling import array_time

from .plans import PassPlan, plan
from .simulate import simulate

MEMORY_GBS = 68.0  #: DDR4 and LPDDR4 of the VCK190 together, in decimal gigabytes a second
#: Blocks of the two shorter models that stand for a deep one.
SHORT = (3, 6)


@dataclass(frozen=True)
class PassEstimate:
    """One pass. Cycles; bytes by port.

    Attributes:
        name, rows, tiles, images: see `PassPlan` and `PassRows`.
        sections: of each tile.
        cycles: modelled length.
        issue: cycles in which the array takes a weight vector.
        busy: by unit, cycles in which it is occupied.
        traffic: bytes by port.
        waits: cycles in which the array takes no weight vector, by reason; see `Simulation`.
        memory: cycles that the traffic takes at the memory's full rate.
        useful: share of the array's rows that hold tokens while it multiplies; rows of sections
            that hold the same token count once each.
    """

    name: str
    rows: int
    tiles: int
    images: float
    cycles: float
    issue: float
    busy: dict[str, float]
    traffic: dict[str, float]
    waits: dict[str, float]
    memory: float
    useful: float
    sections: tuple[int, ...]

    @property
    def bounds(self) -> dict[str, float]:
        """Lower bounds in cycles: what each resource alone would need."""
        return {**{k: v for k, v in self.busy.items() if k != "FETCH"}, "memory": self.memory}

    @property
    def bound(self) -> str:
        """The limiting resource: what would bound the pass if all else overlapped."""
        return max(self.bounds, key=lambda k: self.bounds[k])

    @property
    def reached(self) -> float:
        """Share of that bound's rate that the pass reaches."""
        return self.bounds[self.bound] / self.cycles

    @property
    def bytes(self) -> float:
        """Bytes moved on all ports."""
        return sum(self.traffic.values())


@dataclass(frozen=True)
class Estimate:
    """Modelled speed; host work (sampling, decoder) is not in it."""

    config: str
    model: str
    schedule: str
    batch: int
    guided: bool
    clock: float
    passes: tuple[PassEstimate, ...]
    extrapolated: bool

    @property
    def cycles(self) -> float:
        """Cycles of all passes."""
        return sum(p.cycles for p in self.passes)

    @property
    def images(self) -> float:
        """Images finished in these cycles."""
        return sum(p.images for p in self.passes)

    @property
    def images_per_second(self) -> float:
        """Throughput at the clock."""
        return self.images * self.clock * 1e6 / self.cycles

    @property
    def latency(self) -> float:
        """Seconds from an image's first pass to its last; staggered: one pass for each scale."""
        scales = self.scales if self.schedule == "stagger" else 1
        return scales * self.cycles / (self.clock * 1e6)

    @property
    def scales(self) -> int:
        """Scales of an image."""
        return len(self.passes) if self.schedule != "stagger" else self._scales

    _scales: int = 1
    preset: str = ""

    @property
    def utilisation(self) -> float:
        """Share of all cycles in which the array takes a weight vector."""
        return sum(p.issue for p in self.passes) / self.cycles

    @property
    def useful(self) -> float:
        """The same, counting only rows that hold tokens."""
        return sum(p.issue * p.useful for p in self.passes) / self.cycles

    @property
    def bound(self) -> str:
        """The limiting resource over all passes: the unit, or memory, that is busy longest."""
        return max(self._bounds, key=lambda k: self._bounds[k])

    @property
    def reached(self) -> float:
        """Share of that bound's rate that is reached."""
        return self._bounds[self.bound] / self.cycles

    @property
    def _bounds(self) -> dict[str, float]:
        names = self.passes[0].bounds
        return {name: sum(p.bounds[name] for p in self.passes) for name in names}

    @property
    def gigabytes_per_second(self) -> float:
        """Mean bandwidth of all ports together."""
        return sum(p.bytes for p in self.passes) / self.cycles * self.clock * 1e6 / 1e9

    def as_dict(self) -> dict[str, Any]:
        """Plain data; every number is modelled."""
        return {
            "modelled": True,
            "config": self.config,
            "model": self.model,
            "preset": self.preset,
            "schedule": self.schedule,
            "batch": self.batch,
            "guided": self.guided,
            "clock_mhz": self.clock,
            "images_per_second": self.images_per_second,
            "latency_seconds": self.latency,
            "utilisation": self.utilisation,
            "useful": self.useful,
            "gigabytes_per_second": self.gigabytes_per_second,
            "bound": self.bound,
            "reached": self.reached,
            "extrapolated": self.extrapolated,
            "passes": [
                {**dataclasses.asdict(p), "bound": p.bound, "reached": p.reached}
                for p in self.passes
            ],
        }


class Estimator:
    """Estimates of one model on one accelerator.

    Args:
        config: the accelerator.
        shape, model: sizes and name.
        clock: MHz.
        full: compile all blocks, instead of extrapolating from `SHORT` blocks.
        times: constants of the cycle model.
        quant: preset of the model, by default the accelerator's own. Without the dual format in
            fc2 GELU's results have factors and shifts, which POST reads.
        tile_rows, sections: of every pass, instead of the compiler's choice; see `Compiler`.
        terms: of all layers, in their order; none: one term everywhere. Blocks that differ are
            all compiled.

    Raises:
        ValueError: a clock that is not finite and above 0.
        CompileError: a model or a preset that the accelerator cannot run.
    """

    def __init__(
        self, config: AcceleratorConfig, shape: TransformerShape, model: str, *,
        clock: float = 250.0, full: bool = False,
        times: UnitTimes | None = None, quant: QuantConfig | None = None,
        tile_rows: int | None = None, sections: int | None = None,
        terms: Sequence[Terms] = (),
    ) -> None:  # fmt: skip
        if not (math.isfinite(clock) and clock > 0):
            raise ValueError(f"clock = {clock}: must be a finite number above 0")
        self.config, self.shape, self.model = config, shape, model
        self.preset = (quant or config.quant_config).name
        self.clock, self.memory = clock, MEMORY_GBS
        count = len(SITE_NAMES)
        alike = all(terms[i] == terms[i % count] for i in range(len(terms) - 1))
        self.full = full or shape.depth <= 2 * SHORT[1] or not alike
        hidden = () if quant is None or quant.sites["fc2"].format.dual else HIDDEN_VECTORS
        ModelLayout.of(shape, config, (), quant, hidden, terms)  # limits of the whole model
        depths = (shape.depth,) if self.full else SHORT
        self._compilers = [
            Compiler(
                ModelLayout.of(
                    dataclasses.replace(shape, depth=d),
                    config,
                    range(1 << 12),
                    quant,
                    hidden,
                    (*terms[: d * count], *terms[-1:]),
                ),
                times=times,
                tile_rows=tile_rows,
                sections=sections,
            )
            for d in depths
        ]

    def estimate(self, schedule: str, batch: int = 1, guided: bool = True) -> Estimate:
        """Run a schedule on the model."""
        plans = plan(self.shape, schedule, batch, guided)
        return Estimate(
            config=self.config.name,
            model=self.model,
            schedule=schedule,
            batch=1 if schedule == "single" else batch,
            guided=guided,
            clock=self.clock,
            passes=tuple(self._pass(p) for p in plans),
            extrapolated=not self.full,
            _scales=len(self.shape.patch_nums),
            preset=self.preset,
        )

    def _pass(self, what: PassPlan) -> PassEstimate:
        budget = self.memory * 1e9 / (self.clock * 1e6)
        results = []
        tiling = self._compilers[-1].tiling(what.steps, self.shape.depth)
        rows = self._compilers[-1].place(what.steps, tiling)
        for compiler in self._compilers:
            compiled = compiler.compile(what.steps, tiling=tiling)
            results.append(simulate(compiled.program, compiler.costs, budget))

        def value(pick: Any) -> float:
            first = float(pick(results[0]))
            if self.full:
                return first
            slope = (float(pick(results[1])) - first) / (SHORT[1] - SHORT[0])
            return first + slope * (self.shape.depth - SHORT[0])

        def busy(unit: Unit) -> float:
            return value(lambda s: s.busy[unit])

        def port(name: str) -> float:
            return value(lambda s: s.traffic.get(name, 0))

        def wait(name: str) -> float:
            return value(lambda s: s.waits.get(name, 0.0))

        reasons = sorted({name for r in results for name in r.waits})
        traffic = {name: port(name) for name in PORTS}
        return PassEstimate(
            name=what.name,
            rows=rows.used,
            tiles=rows.tiles,
            images=what.images,
            cycles=value(lambda s: s.cycles),
            issue=value(lambda s: s.issue),
            busy={u.name: busy(u) for u in UNITS},
            traffic=traffic,
            waits=_not_negative({name: wait(name) for name in reasons}),
            memory=sum(traffic.values()) / budget,
            useful=rows.used / (array_time(rows) * self.config.rows),
            sections=tuple(rows.sections_of(tile) for tile in range(rows.tiles)),
        )


def _not_negative(waits: dict[str, float]) -> dict[str, float]:
    """Waits of a deep model can come out below 0 from two shallow ones: 0 then, the sum kept."""
    total, kept = sum(waits.values()), {name: max(n, 0.0) for name, n in waits.items()}
    share = total / sum(kept.values()) if total > 0 else 0.0
    return {name: n * share for name, n in kept.items()}
