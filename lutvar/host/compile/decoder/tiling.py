# SPDX-License-Identifier: Apache-2.0
"""How a map's rows become tiles, and what a convolution then takes, from counts.

Rows of a tile are pieces of several lines, one below the other in `bands` of the map. A tile's next
one is the same pieces a line further down, so the windows of a line, once in an activation bank,
serve as the line below, the line itself and the line above of three tiles in turn (`banks`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from lutvar.contract.accelerator import ROW_GROUP, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.decoder import Conv, Norm, stored_channels
from lutvar.contract.isa import Opcode, PostOp
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.terms import Terms
from lutvar.host.compile.costs import CostModel
from lutvar.host.compile.layer_plan import InputSlice

from .banks import hold, uses

#: Lines from which on each takes as many loads as the one before.
_STEADY = 5


@dataclass(frozen=True)
class Cycles:
    """Cycles of a convolution with the norms before it.

    Attributes:
        name: of the convolution.
        macs: as they are usually counted.
        groups: groups of 128 that FRONT quantizes.
        front, matrix, post: occupied; of POST `norm` are NORM's.
        tail: from the last load to the last result.
    """

    name: str
    macs: int
    groups: int
    front: int
    matrix: int
    post: int
    norm: int
    tail: int

    @property
    def total(self) -> int:
        """The units overlap within a convolution; a norm waits for all of the one before."""
        return max(self.front, self.matrix, self.post) + self.tail


@dataclass(frozen=True)
class Tiling:
    """How a map's rows become tiles.

    Attributes:
        width: rows of a piece. bands: pieces of a tile. lines: tiles below one another.
        across: pieces of a line.
    """

    width: int
    bands: int
    lines: int
    across: int

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.width * self.bands

    @property
    def tiles(self) -> int:
        """All of them."""
        return self.lines * self.across


def tilings(conv: Conv, config: AcceleratorConfig) -> Iterator[Tiling]:
    """Every way that divides the lines into equal pieces, of 16 rows or more where there are."""
    for across in range(1, conv.rows + 1):
        width = conv.rows // across
        if conv.rows % across or width > config.rows or width < min(ROW_GROUP, conv.rows):
            continue
        bands = min(config.rows // width, conv.side)
        lines = -(-conv.side // bands)
        yield Tiling(width, -(-conv.side // lines), lines, across)


def best_tiling(conv: Conv, terms: Terms, config: AcceleratorConfig, costs: CostModel) -> Tiling:
    """The tiling whose busiest unit has least to do."""
    return _best(conv, 0, terms, config, costs)[0]


def conv_cycles(
    conv: Conv, norms: list[Norm], terms: Terms, config: AcceleratorConfig, costs: CostModel
) -> Cycles:
    """Cycles of a convolution in its best tiling."""
    norm = sum(norm_cycles(step, costs) for step in norms)
    return _best(conv, norm, terms, config, costs)[1]


def norm_cycles(step: Norm, costs: CostModel) -> int:
    """Cycles of POST's instructions of a norm, 16 rows of whole blocks each."""
    channels = stored_channels(step.channels)
    span = GROUP // math.gcd(GROUP, channels)
    rows, vectors = step.side**2 // span, int(bool(step.name))
    operands = {
        "rows": min(rows, ROW_GROUP), "blocks": span * channels // GROUP, "op": int(PostOp.NORM),
        "vector": vectors, "shift": vectors,
    }  # fmt: skip
    return -(-rows // ROW_GROUP) * costs.of(Opcode.POST, operands).occupied


def _best(
    conv: Conv, norm: int, terms: Terms, config: AcceleratorConfig, costs: CostModel
) -> tuple[Tiling, Cycles]:
    found = [(t, _tiled(conv, norm, t, terms, costs)) for t in tilings(conv, config)]
    return min(found, key=lambda c: (c[1].total, c[1].front + c[1].matrix + c[1].post))


def loads(
    conv: Conv, terms: Terms, config: AcceleratorConfig, tiling: Tiling
) -> dict[InputSlice, int]:
    """Times that a tile's windows of one line are loaded, for all tiles, by slice.

    Of many lines the first few are looked at: from then on one is like the other.
    """
    counts = _loaded(conv, terms, config, min(tiling.lines, _STEADY))
    if tiling.lines > _STEADY:
        less = _loaded(conv, terms, config, _STEADY - 1)
        more = tiling.lines - _STEADY
        counts = {part: n + more * (n - less.get(part, 0)) for part, n in counts.items()}
    return {part: n * tiling.across for part, n in counts.items()}


def _loaded(
    conv: Conv, terms: Terms, config: AcceleratorConfig, lines: int
) -> dict[InputSlice, int]:
    windows = [use.window for use in uses(conv, terms, config, 0, lines)]
    held = hold(windows, config.act_banks)
    return Counter(w.part for w, h in zip(windows, held, strict=True) if h.load)


def _tiled(conv: Conv, norm: int, tiling: Tiling, terms: Terms, costs: CostModel) -> Cycles:
    config = costs.config
    front = groups = 0
    for part, count in loads(conv, terms, config, tiling).items():
        operands = {
            "rows": tiling.width, "groups": part.groups, "norm": 0, "terms": terms.inputs - 1
        }  # fmt: skip
        front += costs.of(Opcode.FRONT, operands).occupied * tiling.bands * count
        groups += part.groups * tiling.rows * count

    def matrix(groups: int) -> int:
        operands = {
            "groups": groups, "blocks": conv.columns // WEIGHT_BLOCK, "dual": 0,
            "terms": terms.inputs - 1, "sections": 0,
        }  # fmt: skip
        return costs.of(Opcode.MATRIX, operands).occupied

    products = uses(conv, terms, config, 0, 1)
    multiply = sum(matrix(use.window.part.groups) for use in products) * tiling.tiles
    operands = {
        "rows": min(ROW_GROUP, tiling.width), "blocks": conv.columns // GROUP, "vector": 0,
        "op": PostOp.ADD if conv.residual else PostOp.STORE, "shift": 0,
    }  # fmt: skip
    drain = costs.of(Opcode.POST, operands)
    drains = -(-tiling.width // ROW_GROUP) * tiling.bands * tiling.tiles * len(conv.parts)
    times = costs.times
    tail = times.front_tail + times.memory + times.matrix_start + times.matrix_tail + drain.tail
    post = drains * drain.occupied + norm
    return Cycles(conv.name, conv.macs, groups, front, multiply, post, norm, tail)
