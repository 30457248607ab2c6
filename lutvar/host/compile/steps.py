# SPDX-License-Identifier: Apache-2.0
"""The rows of a pass: sequences, where they lie among the tiles, and which may share work.

A pass computes a list of image steps. Each gives one or two sequences of token rows: the
unconditional half, if there is one, and the conditional half. Row r of the pass is row
`r mod rows` of tile `r // rows`. If it takes no tile more, sequences are placed so that none
lies in two tiles: tiles that share no sequence need not wait for each other. Then rows at the end
of a tile may be unused. The unconditional half of a step is never behind the conditional one,
which is added to its logits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.contract.passes import GUIDANCE_LIMIT, GUIDANCE_STEPS, ImageStep
from lutvar.contract.sections import SECTIONS, tile_rows
from lutvar.contract.shape import TransformerShape

from .errors import CompileError


@dataclass(frozen=True)
class StepShape:
    """An image step without its values: see `lutvar.contract.passes.ImageStep`."""

    slot: int
    label: int
    position: int
    tokens: int
    guided: bool = True
    guidance: float = 0.0

    @classmethod
    def of(cls, step: ImageStep) -> StepShape:
        """What the compiler needs of a step."""
        return cls(
            step.slot, step.label, step.position, step.tokens, step.x_uncond is not None,
            step.guidance,
        )  # fmt: skip

    def scalar(self, conditional: bool) -> int:
        """FP16 pattern that the logits of a half are multiplied with."""
        if not self.guided:
            return fp16_pattern(1.0)
        return fp16_pattern(1 + self.guidance if conditional else -self.guidance)


@dataclass(frozen=True)
class TokenRows:
    """One half of an image step: contiguous rows of the pass.

    Attributes:
        step: index of the image step in the pass.
        conditional: which half.
        label: class of its AdaLN vectors.
        first, tokens: rows of the pass.
        slot, position: cache slot, and tokens that it holds already.
        scalar: FP16 pattern that its logits are multiplied with.
        accumulate: its logits are added to those of the other half.
    """

    step: int
    conditional: bool
    label: int
    first: int
    tokens: int
    slot: int
    position: int
    scalar: int
    accumulate: bool

    @property
    def keys(self) -> int:
        """Keys that each of its tokens sees."""
        return self.position + self.tokens


@dataclass(frozen=True)
class Rows:
    """Contiguous rows `first .. first + count - 1` of the pass, within one tile."""

    tile: int
    first: int
    count: int


def fp16_pattern(value: float) -> int:
    """Bits of the FP16 nearest to a value."""
    return int(np.float16(value).view(np.uint16))


@dataclass(frozen=True)
class Tiling:
    """How the rows of a pass lie in the array.

    Attributes:
        tile_rows: rows of a full tile.
        max_sections: of each tile the largest number of sections up to this that its rows allow.
        apart: each sequence starts a tile.
    """

    tile_rows: int
    max_sections: int
    apart: bool = False


@dataclass(frozen=True)
class PassRows:
    """All rows of a pass.

    Attributes:
        steps: the image steps, in the caller's order.
        sequences: in order of rows.
        tile_rows: rows of a full tile.
        sections: (sections, most rows of a tile) that tiles may be computed in.
    """

    steps: tuple[StepShape, ...]
    sequences: tuple[TokenRows, ...]
    tile_rows: int
    sections: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> int:
        """Rows of the pass, unused ones included."""
        last = self.sequences[-1]
        return last.first + last.tokens

    @property
    def used(self) -> int:
        """Rows that hold tokens."""
        return sum(seq.tokens for seq in self.sequences)

    @property
    def tiles(self) -> int:
        """Number of tiles of rows."""
        return -(-self.rows // self.tile_rows)

    def tile(self, index: int) -> Rows:
        """The rows of a tile, without unused ones at its end."""
        first = index * self.tile_rows
        last = max(
            min(seq.first + seq.tokens, first + self.tile_rows)
            for seq in self.sequences
            if seq.first < first + self.tile_rows and seq.first + seq.tokens > first
        )
        return Rows(index, first, last - first)

    def sections_of(self, tile: int) -> int:
        """Sections that a tile is computed in: as many as its rows allow."""
        count = self.tile(tile).count
        return max(sections for sections, most in self.sections if count <= most)

    def segments(self, tile: int) -> Iterator[tuple[TokenRows, Rows]]:
        """The part of each sequence that lies in a tile."""
        span = self.tile(tile)
        for seq in self.sequences:
            a, b = max(span.first, seq.first), min(span.first + span.count, seq.first + seq.tokens)
            if a < b:
                yield seq, Rows(tile, a, b - a)

    def runs(self, tile: int) -> Iterator[tuple[int, Rows]]:
        """(label, rows): neighbouring segments with the same AdaLN vectors, together."""
        label, first, count = -1, 0, 0
        for seq, rows in self.segments(tile):
            if count and seq.label == label:
                count += rows.count
                continue
            if count:
                yield label, Rows(tile, first, count)
            label, first, count = seq.label, rows.first, rows.count
        if count:
            yield label, Rows(tile, first, count)

    def groups(self, rows: Rows) -> Iterator[tuple[int, int, Rows]]:
        """Split rows at groups of 16 of the tile: (row group, first row in it, rows)."""
        at, end, base = rows.first, rows.first + rows.count, rows.tile * self.tile_rows
        while at < end:
            group, inside = divmod(at - base, ROW_GROUP)
            count = min(ROW_GROUP - inside, end - at)
            yield group, inside, Rows(rows.tile, at, count)
            at += count


def place_rows(
    steps: Sequence[StepShape],
    shape: TransformerShape,
    config: AcceleratorConfig,
    null_label: int,
    tiling: Tiling | None = None,
) -> PassRows:
    """Order the sequences of a pass, by default in tiles of all rows of the array.

    Raises CompileError for steps that do not fit each other.
    """
    tiling = tiling or Tiling(config.rows, config.max_sections)
    if not steps:
        raise CompileError("a pass needs at least one image step")
    check_slots(steps)
    for i, s in enumerate(steps):
        _check_step(i, s, shape, config)
    halves = [(i, s, False) for i, s in enumerate(steps) if s.guided]
    halves += [(i, s, True) for i, s in enumerate(steps)]
    sequences = []
    for at, (index, step, conditional) in _place(halves, tiling):
        sequences.append(
            TokenRows(
                step=index,
                conditional=conditional,
                label=step.label if conditional else null_label,
                first=at,
                tokens=step.tokens,
                slot=step.slot,
                position=step.position,
                scalar=step.scalar(conditional),
                accumulate=conditional and step.guided,
            )
        )
    sections = tuple((s, tile_rows(config, s)) for s in SECTIONS if s <= tiling.max_sections)
    return PassRows(tuple(steps), tuple(sequences), tiling.tile_rows, sections)


def check_slots(steps: Sequence[StepShape]) -> None:
    """Raise CompileError unless each image has a cache slot of its own."""
    slots = [s.slot for s in steps]
    if len(set(slots)) != len(slots):
        raise CompileError(f"slots {slots} of one pass; each image needs a cache slot of its own")
    for i, slot in enumerate(slots):
        if not 0 <= slot < 1 << 16:
            raise CompileError(f"image step {i}: slot {slot}; it must be from 0 to 65535")


_Half = tuple[int, StepShape, bool]


def _place(halves: Sequence[_Half], tiling: Tiling) -> Iterator[tuple[int, _Half]]:
    """(first row, sequence), in order of rows."""
    tile = tiling.tile_rows

    def order(half: _Half) -> tuple[object, ...]:
        # Whole groups of 16 rows first: fewer groups are shared, each of which is drained twice.
        index, step, conditional = half
        return conditional, step.tokens % ROW_GROUP != 0, -step.tokens, step.label, index

    if tiling.apart:
        at = 0
        for half in sorted(halves, key=order):
            yield at, half
            at += -(-half[1].tokens // tile) * tile
        return
    bins = _bins(halves, tile)
    if bins is None:
        bins = [list(halves)]
    for number, part in enumerate(bins):
        at = number * tile
        for half in sorted(part, key=order):
            yield at, half
            at += half[1].tokens


def _bins(halves: Sequence[_Half], tile: int) -> list[list[_Half]] | None:
    """Sequences by tile, largest first into the first tile with room; None if that needs more
    tiles than there must be. Of equal length the unconditional ones come first, so no conditional
    one gets an earlier tile."""
    count = -(-sum(step.tokens for _, step, _ in halves) // tile)
    bins: list[list[_Half]] = [[] for _ in range(count)]
    room = [tile] * count
    for half in sorted(halves, key=lambda h: (-h[1].tokens, h[2], h[1].label, h[0])):
        tokens = half[1].tokens
        number = next((i for i, left in enumerate(room) if left >= tokens), None)
        if number is None:
            return None
        bins[number].append(half)
        room[number] -= tokens
    return bins


def _check_step(
    index: int, step: StepShape, shape: TransformerShape, config: AcceleratorConfig
) -> None:
    where = f"image step {index}"
    if step.tokens < 1 or step.position < 0:
        raise CompileError(f"{where}: {step.tokens} tokens at position {step.position}")
    if step.position + step.tokens > min(shape.tokens, config.max_keys):
        raise CompileError(
            f"{where}: {step.tokens} tokens at position {step.position}; an image has "
            f"{shape.tokens} tokens and {config.name} has max_keys {config.max_keys}"
        )
    check_guidance(index, step)


def check_guidance(index: int, step: StepShape) -> None:
    """Raise CompileError for a strength that the device cannot represent."""
    t = step.guidance * GUIDANCE_STEPS
    if step.guided and not (0 <= step.guidance < GUIDANCE_LIMIT and t == int(t)):
        raise CompileError(
            f"image step {index}: guidance {step.guidance}; it must be a multiple of "
            f"1/{GUIDANCE_STEPS} from 0 to below {GUIDANCE_LIMIT:g}"
        )
