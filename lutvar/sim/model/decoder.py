# SPDX-License-Identifier: Apache-2.0
"""What decoding one image would take on the units, from counts: modelled, not simulated.

Rows of a tile are pieces of several lines, one below the other in `bands` of the map. A tile's next
one is the same pieces a line further down, so the windows of a line, once in an activation bank,
serve as the line below, the line itself and the line above of three tiles in turn. Where a bank
does not hold a window, or there are fewer than four banks, each tile loads its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from lutvar.contract.accelerator import LANES, ROW_GROUP, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.decoder import Conv, DecoderShape, Norm, stored_channels
from lutvar.contract.decoder_form import DecoderForm
from lutvar.contract.decoder_memory import check_decoder
from lutvar.contract.isa import Opcode, PostOp
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.terms import Terms
from lutvar.host.compile.costs import CostModel

_SLIDING_BANKS = 4  #: three lines, and one that is being filled


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
        loads: times that a tile's windows of one line are loaded, for all tiles.
    """

    width: int
    bands: int
    lines: int
    across: int
    loads: int

    @property
    def rows(self) -> int:
        """Rows of a tile."""
        return self.width * self.bands

    @property
    def tiles(self) -> int:
        """All of them."""
        return self.lines * self.across


def slices(conv: Conv, terms: Terms, config: AcceleratorConfig) -> int:
    """Activation banks that a window takes."""
    return -(-conv.groups * terms.inputs // config.bank_groups)


def tilings(conv: Conv, terms: Terms, config: AcceleratorConfig) -> Iterator[Tiling]:
    """Every way that divides the lines into equal pieces, of 16 rows or more where there are."""
    parts = 1 if conv.taps == 1 else 3
    resident = slices(conv, terms, config)
    for across in range(1, conv.rows + 1):
        width = conv.rows // across
        if conv.rows % across or width > config.rows or width < min(ROW_GROUP, conv.rows):
            continue
        bands = min(config.rows // width, conv.side)
        lines = -(-conv.side // bands)
        if parts == 1 or (resident == 1 and config.act_banks >= _SLIDING_BANKS):
            loads = lines + parts - 1
        else:
            again = terms.weights if 2 * resident > config.act_banks else 1
            loads = lines * parts * again
        yield Tiling(width, bands, lines, across, loads * across)


def conv_cycles(
    conv: Conv, norms: list[Norm], terms: Terms, config: AcceleratorConfig, costs: CostModel
) -> Cycles:
    """Cycles of a convolution, tiled so that the busiest unit has least to do."""
    norm = sum(step.side**2 * stored_channels(step.channels) // LANES for step in norms)
    found = (_tiled(conv, norm, t, terms, costs) for t in tilings(conv, terms, config))
    return min(found, key=lambda c: (c.total, c.front + c.matrix + c.post))


def _tiled(conv: Conv, norm: int, tiling: Tiling, terms: Terms, costs: CostModel) -> Cycles:
    def front(groups: int) -> int:
        operands = {"rows": tiling.width, "groups": groups, "norm": 0, "terms": terms.inputs - 1}
        return costs.of(Opcode.FRONT, operands).occupied * tiling.bands

    def matrix(groups: int) -> int:
        operands = {
            "groups": groups, "blocks": conv.columns // WEIGHT_BLOCK, "dual": 0,
            "terms": terms.inputs - 1, "sections": 0,
        }  # fmt: skip
        return costs.of(Opcode.MATRIX, operands).occupied * terms.weights

    lines = len(conv.parts)
    operands = {
        "rows": min(ROW_GROUP, tiling.width), "blocks": conv.columns // GROUP, "vector": 0,
        "op": PostOp.ADD if conv.residual else PostOp.STORE, "shift": 0,
    }  # fmt: skip
    drain = costs.of(Opcode.POST, operands)
    drains = -(-tiling.width // ROW_GROUP) * tiling.bands * tiling.tiles * lines
    count = sum(len(parts) for parts in conv.parts)
    straight = conv.shortcut_groups
    loads = front(conv.groups) * tiling.loads
    groups = conv.groups * tiling.loads * tiling.rows
    multiply = matrix(conv.groups) * count * tiling.tiles
    if straight:
        loads += front(straight) * tiling.tiles
        groups += straight * tiling.tiles * tiling.rows
        multiply += matrix(straight) * tiling.tiles
    times = costs.times
    tail = times.front_tail + times.memory + times.matrix_start + times.matrix_tail + drain.tail
    post = drains * drain.occupied + norm
    return Cycles(conv.name, conv.macs, groups, loads, multiply, post, norm, tail)


def decoder_cycles(
    shape: DecoderShape, form: DecoderForm, config: AcceleratorConfig
) -> list[Cycles]:
    """Cycles of all convolutions of one image, in order; attention is the host's.

    Raises:
        ConfigError: the accelerator does not run it.
    """
    check_decoder(shape, form, config)
    costs, found, norms = CostModel(config), list[Cycles](), list[Norm]()
    for step in shape.steps:
        if isinstance(step, Norm):
            norms.append(step)
        elif isinstance(step, Conv):
            terms = form.terms(shape, step)
            found.append(conv_cycles(step, norms, terms, config, costs))
            norms = []
    return found
