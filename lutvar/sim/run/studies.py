# SPDX-License-Identifier: Apache-2.0
"""Simulated comparisons: what each pipeline level brings, and what sharing weights brings.

Every figure is a count of cycles of the exported Verilog; logits are compared with the golden
model on the way, so a variant that computes anything else is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.sections import tile_rows
from lutvar.host.transformer import PassReport
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import MemoryTiming

from .comparing import ComparingTransformer, Comparison
from .document import Table
from .measure import PassFigures, figures, total
from .session import Quantized, Session, silent

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """One way to run a workload.

    Attributes:
        name: for the table.
        serial: level one off: an instruction starts when all earlier ones are complete.
        pipelined: level two on: units take new work in each cycle.
        images, slots, stagger: the workload (`generate_passes`).
        timing: of the memory.
        sections: most of a tile; tile_rows: of every tile; None: what the compiler chooses.
    """

    name: str
    serial: bool = False
    pipelined: bool = True
    images: int = 1
    slots: int = 1
    stagger: int = 0
    timing: MemoryTiming = field(default_factory=MemoryTiming)
    sections: int | None = None
    tile_rows: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What a variant took: all passes, and those of the last two scales only."""

    variant: Variant
    overall: PassFigures
    last: PassFigures
    mismatches: int

    @property
    def cycles_per_image(self) -> float:
        """Cycles of all passes for each image."""
        return self.overall.cycles / self.variant.images


#: Both pipeline levels, each alone, none.
ABLATION = (
    Variant("neither", serial=True, pipelined=False),
    Variant("within units only", serial=True),
    Variant("between units only", pipelined=False),
    Variant("both"),
)


def section_variants(config: AcceleratorConfig) -> tuple[Variant, ...]:
    """Sections off, whole tiles and half tiles, and what the compiler chooses; one and two images.

    None on an accelerator without sections.
    """
    if config.max_sections == 1:
        return ()
    half = tile_rows(config, 2)
    return tuple(
        Variant(f"{name}, {n} image{'s' if n > 1 else ''}", images=n, slots=n, sections=s,
                tile_rows=r)
        for n in (1, 2)
        for name, s, r in (
            ("no sections", 1, config.rows), ("sections, whole tiles", None, config.rows),
            ("sections, half tiles", None, half), ("sections, tiles by the model", None, None),
        )
    )  # fmt: skip


#: One image alone, several together, several staggered over the scales.
SHARING = (
    Variant("1 image", images=1, slots=1),
    Variant("2 images together", images=2, slots=2),
    Variant("4 images together", images=4, slots=4),
    Variant("8 images together", images=8, slots=8),
    Variant("8 images, staggered over 4 scales", images=8, slots=4, stagger=1),
)
#: What memory latency and stalls cost.
MEMORY = tuple(
    Variant(f"latency {low} to {high} cycles, stalls {100 * stall:.0f} %", images=8, slots=8,
            timing=MemoryTiming((low, high), stall))
    for low, high, stall in ((8, 8, 0.0), (25, 75, 0.0), (25, 75, 0.1), (75, 75, 0.0))
)  # fmt: skip


def run_variants(
    quantized: Quantized,
    variants: Sequence[Variant],
    out: Path,
    *,
    say: Say = silent,
) -> list[Outcome]:
    """Simulate variants of one workload; each accelerator is built once."""
    outcomes: dict[Variant, Outcome] = {}
    for pipelined in sorted({v.pipelined for v in variants}, reverse=True):
        group = [v for v in variants if v.pipelined == pipelined]
        variant_model = Quantized(
            quantized.loaded, quantized.transformer, _config(quantized.config, pipelined)
        )
        slots = max(v.slots for v in group)
        reports: list[PassReport] = []
        with Session(variant_model, out, slots=slots, on_pass=reports.append) as session:
            for variant in group:
                session.set_tiles(variant.tile_rows, variant.sections)
                session.device.set_serial(variant.serial)
                session.simulation.set_timing(variant.timing)
                reports.clear()
                comparison = Comparison()
                device = ComparingTransformer(
                    GoldenTransformer(quantized.transformer), session.transformer, comparison
                )
                loaded, info = quantized.loaded, quantized.loaded.info
                classes = len(info.classes)
                generate_passes(
                    loaded.var, loaded.vqvae, device,
                    [i % classes for i in range(variant.images)],
                    [1 + i for i in range(variant.images)], info.cfg, info.top_k, info.top_p,
                    slots=variant.slots, stagger=variant.stagger,
                )  # fmt: skip
                outcomes[variant] = _outcome(variant, quantized, reports, comparison)
                say(f"{variant.name}: {outcomes[variant].overall.cycles:,} cycles")
    return [outcomes[v] for v in variants]


def _config(config: AcceleratorConfig, pipelined: bool) -> AcceleratorConfig:
    if pipelined == config.pipelined:
        return config
    return config.model_copy(
        update={"pipelined": pipelined, "name": f"{config.name}-one-at-a-time"}
    )


def _outcome(
    variant: Variant, quantized: Quantized, reports: Sequence[PassReport], comparison: Comparison
) -> Outcome:
    shape = quantized.transformer.shape
    passes = [figures(str(i), r, shape) for i, r in enumerate(reports)]
    start = shape.tokens - sum(shape.scale_tokens[-2:])
    last = [p for p, r in zip(passes, reports, strict=True)
            if all(s.position >= start for s in r.steps)]  # fmt: skip
    return Outcome(
        variant, total("all", passes), total("last two scales", last or passes),
        comparison.mismatches,
    )  # fmt: skip


def ablation_table(outcomes: Sequence[Outcome]) -> Table:
    """What each pipeline level brings."""
    slowest = outcomes[0].overall.cycles
    return Table(
        ["pipelining", "cycles", "speed-up", "array busy", "values that differ"],
        [
            [o.variant.name, f"{o.overall.cycles:,}", f"{slowest / o.overall.cycles:.2f}",
             _percent(o.overall.utilisation), str(o.mismatches)]
            for o in outcomes
        ],
    )  # fmt: skip


def sections_table(outcomes: Sequence[Outcome]) -> Table:
    """What sections and half tiles bring; the speed-up is over the same images without."""
    base = {o.variant.images: o.overall.cycles for o in reversed(outcomes)}
    return Table(
        ["tiles", "cycles", "speed-up", "array busy", "values that differ"],
        [
            [o.variant.name, f"{o.overall.cycles:,}",
             f"{base[o.variant.images] / o.overall.cycles:.2f}",
             _percent(o.overall.utilisation), str(o.mismatches)]
            for o in outcomes
        ],
    )  # fmt: skip


def sharing_table(outcomes: Sequence[Outcome]) -> Table:
    """What a shared read of the weights brings."""
    return Table(
        ["schedule", "cycles an image", "array busy", "in the last two scales",
         "MB of memory traffic an image", "values that differ"],
        [
            [o.variant.name, f"{o.cycles_per_image:,.0f}", _percent(o.overall.utilisation),
             _percent(o.last.utilisation), f"{o.overall.traffic / o.variant.images / 1e6:.2f}",
             str(o.mismatches)]
            for o in outcomes
        ],
    )  # fmt: skip


def memory_table(outcomes: Sequence[Outcome]) -> Table:
    """What slow memory costs, in all passes and in those of the last two scales."""
    first = outcomes[0]

    def more(cycles: int, of: int) -> str:
        return f"{100 * (cycles / of - 1):+.1f} %"

    return Table(
        ["memory", "cycles", "more than the first", "last two scales", "more in these",
         "array busy in these", "values that differ"],
        [
            [o.variant.name, f"{o.overall.cycles:,}", more(o.overall.cycles, first.overall.cycles),
             f"{o.last.cycles:,}", more(o.last.cycles, first.last.cycles),
             _percent(o.last.utilisation), str(o.mismatches)]
            for o in outcomes
        ],
    )  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
