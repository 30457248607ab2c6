# SPDX-License-Identifier: Apache-2.0
"""How the rows of a pass are cut into tiles: the candidates, and the fastest one by the model.

Whole tiles leave the array idle while a tile is in FRONT or ATTEND. Tiles of half the rows in twice
the sections cost the array no more, and while one is in ATTEND the other multiplies. What pays
depends on the pass; so a proxy of a few blocks is scheduled for each candidate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.contract.sections import SECTIONS, tile_rows
from lutvar.contract.shape import TransformerShape

from .errors import CompileError
from .steps import PassRows, StepShape, Tiling

#: Blocks of the model that stands for a deep one.
PROXY_BLOCKS = 3
#: Candidates that take the array so much longer than the best are not looked at.
WORSE = 1.35
#: How peaks count: 4 is within 4 % of the cycle model where memory is needed to 54 to 106 %.
PEAKS = 4

Place = Callable[[Tiling], PassRows]


def check_tiling(
    config: AcceleratorConfig, rows: int | None, sections: int | None
) -> tuple[int | None, int]:
    """Rows of a tile and most sections, as asked. Raises CompileError for impossible ones."""
    if sections is not None and (sections not in SECTIONS or sections > config.max_sections):
        known = ", ".join(str(s) for s in SECTIONS if s <= config.max_sections)
        raise CompileError(f"sections is {sections}; {config.name} has {known}")
    if rows is not None and (rows % ROW_GROUP or not 0 < rows <= config.rows):
        raise CompileError(
            f"tile_rows is {rows}; it must be a multiple of {ROW_GROUP} up to {config.rows}, the "
            f"rows of {config.name}"
        )
    return rows, config.max_sections if sections is None else sections


def array_time(rows: PassRows) -> float:
    """Passes over the weights that the tiles take, one of s sections counting 1 / s."""
    return sum(1 / rows.sections_of(tile) for tile in range(rows.tiles))


def with_memory(cycles: float, share: float) -> float:
    """Cycles of a pass that would need so large a share of the memory, which all ports have in
    common, if that were fast enough: units take turns at peaks long before it is the bound."""
    return cycles * (1 + share**PEAKS) ** (1 / PEAKS)


def candidates(
    config: AcceleratorConfig, total: int, place: Place, max_sections: int
) -> list[tuple[Tiling, PassRows]]:
    """Ways to cut `total` rows, the one with the least work for the array first.

    Those of the same tiles are given once; those that are far from the best, or leave more rows
    unused than the array has, not at all.
    """
    found: dict[tuple[object, ...], tuple[Tiling, PassRows]] = {}
    for tiling in _heights(config, total, max_sections):
        rows = place(tiling)
        if rows.rows > total + config.rows:
            continue
        key = tuple(
            tuple((seq.step, seq.conditional, part.count) for seq, part in rows.segments(tile))
            for tile in range(rows.tiles)
        )
        found.setdefault(key, (tiling, rows))
    ranked = sorted(found.values(), key=lambda c: (array_time(c[1]), c[1].tiles))
    limit = WORSE * array_time(ranked[0][1])
    return [c for c in ranked if array_time(c[1]) <= limit]


def _heights(config: AcceleratorConfig, total: int, max_sections: int) -> Iterator[Tiling]:
    """Tiles as high as s sections allow, and as equal as can be; sequences packed or apart."""
    heights: list[int] = []
    for sections in SECTIONS:
        if sections > max_sections:
            break
        most = tile_rows(config, sections)
        count = -(-total // most)
        heights += [most, -(-total // count // ROW_GROUP) * ROW_GROUP]
    for height in dict.fromkeys(heights):
        yield Tiling(height, max_sections)
        yield Tiling(height, max_sections, apart=True)


def most_rows(config: AcceleratorConfig, rows: PassRows) -> PassRows:
    """A placement of the same sequences that takes as many rows as any candidate may."""
    last = rows.sequences[-1]
    last = replace(last, first=rows.used + config.rows - last.tokens)
    return replace(rows, sequences=(*rows.sequences[:-1], last))


def proxy_shape(shape: TransformerShape) -> TransformerShape:
    """The model that candidates are compared with."""
    return replace(shape, depth=min(shape.depth, PROXY_BLOCKS))


def total_rows(steps: Sequence[StepShape]) -> int:
    """Rows that hold tokens in a pass."""
    return sum(step.tokens * (2 if step.guided else 1) for step in steps)
