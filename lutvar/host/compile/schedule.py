# SPDX-License-Identifier: Apache-2.0
"""In which order the operations of a pass run: list scheduling with the cycle model.

One order of operations fixes the order of FRONT, MATRIX and POST, because banks are given out in
turn; ATTEND follows the qkv results. Each step takes the operation whose MATRIX part can
begin first; among those that would not keep the array waiting, the one that has waited longest,
but while POST is far behind the array, the one that gives POST least to do for its MATRIX time.
Instructions get their starting time in the model, which orders the program.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from lutvar.contract.isa import UNITS, Opcode, Unit
from lutvar.contract.quant_preset import SITE_NAMES
from lutvar.contract.widths import FRONT_SLOTS, WORDS

from .costs import CostModel
from .draft import Draft, Operation
from .emit import Emitter, sequences_in
from .hazards import Access, Counts, needed, record
from .layer_plan import LayerPlan, WeightTile
from .model_layout import HEAD
from .steps import PassRows

_UNIT = {
    Opcode.FETCH: Unit.FETCH,
    Opcode.FRONT: Unit.FRONT,
    Opcode.MATRIX: Unit.MATRIX,
    Opcode.POST: Unit.POST,
    Opcode.ATTEND: Unit.ATTEND,
}
#: Their numbers, made once: the scheduler asks for every instruction.
_NUMBER = {opcode: int(unit) for opcode, unit in _UNIT.items()}


#: An operation that begins so many cycles after the array is free does not keep it waiting.
SLACK = 64
#: POST is far behind when it has more work than this share of what the accumulator banks hold.
LAG = 0.5


def unit_of(opcode: Opcode) -> Unit:
    """The unit that an instruction runs on. END runs on none: KeyError."""
    return _UNIT[opcode]


@dataclass(slots=True)
class Scheduled:
    """A draft with what it needs and when it starts in the model."""

    draft: Draft
    need: Counts
    start: int


@dataclass
class Timeline:
    """Instructions of all units in their order, with modelled times."""

    costs: CostModel
    items: list[list[Scheduled]] = field(default_factory=lambda: [[] for _ in UNITS])
    done: list[list[int]] = field(default_factory=lambda: [[0] for _ in UNITS])
    free: list[int] = field(default_factory=lambda: [0 for _ in UNITS])
    moved: int = 0  # bytes of all memory ports

    def ready(self, need: Counts) -> int:
        """When so many instructions of each unit are complete."""
        fetch, front, matrix, post, attend = self.done
        a, b, c, d, e = need
        return max(fetch[a], front[b], matrix[c], post[d], attend[e])

    def add(self, draft: Draft) -> Scheduled:
        """Append an instruction to its unit."""
        unit = _NUMBER[draft.opcode]
        need = needed(draft.reads, draft.writes)
        cost = self.costs.of(draft.opcode, draft.operands)
        items, done = self.items[unit], self.done[unit]
        start = max(self.free[unit], self.ready(need))
        if unit == Unit.FRONT and len(done) > FRONT_SLOTS:
            start = max(start, done[-FRONT_SLOTS])
        item = Scheduled(draft, need, start)
        items.append(item)
        record(unit, len(items), draft.reads, draft.writes + draft.extends)
        self.free[unit] = end = start + cost.occupied
        self.moved += sum(size for _, size in cost.traffic)
        done.append(max(done[-1], end + cost.tail))
        return item

    @property
    def end(self) -> int:
        """Cycle in which the last instruction is complete."""
        return max(done[-1] for done in self.done)


class Scheduler:
    """Orders the operations of a pass. `run` does it.

    Attributes:
        timeline: the result.
        block_ends: cycles in which all results of each block are there.
    """

    def __init__(self, emitter: Emitter, costs: CostModel) -> None:
        self.emitter, self.costs, self.rows = emitter, costs, emitter.rows
        self.timeline = Timeline(costs)
        depth = emitter.shape.depth
        self.block_ends = [0] * depth
        self._chain = [(b, s) for b in range(depth) for s in SITE_NAMES] + [(depth, HEAD)]
        self._next = [0] * self.rows.tiles
        self._qkv_done = [0] * self.rows.tiles  # blocks
        self._attended = [0] * self.rows.tiles  # blocks
        self._ready: list[int | None] = [0] * self.rows.tiles
        self._head_after = _head_order(self.rows)
        self._front_time = self._front_times()
        self._drains, post = self._post_work()
        self._lag = LAG * emitter.config.acc_banks * post

    def run(self) -> Timeline:
        """Schedule everything."""
        left = len(self._chain) * self.rows.tiles
        for _ in range(left):
            self._commit(self._choose())
        return self.timeline

    # Choice ----------------------------------------------------------------------------------
    def _choose(self) -> Operation:
        line = self.timeline
        best: tuple[float, ...] | None = None
        tile_index, free = -1, line.free[Unit.MATRIX]
        behind = line.free[Unit.POST] - free > self._lag
        bank_free = self._bank_free()
        for tile in range(self.rows.tiles):
            ready = self._data_ready(tile)
            if ready is None:
                continue
            block, site = self._chain[self._next[tile]]
            begin = max(line.free[Unit.FRONT], ready, bank_free)
            begin += self._front_time[tile][site]
            key = (
                begin if begin > free + SLACK else 0,
                self._drains[tile][site] if behind else 0,
                ready, self._next[tile], tile,
            )  # fmt: skip
            if best is None or key < best:
                best, tile_index = key, tile
        assert tile_index >= 0, "no tile can go on"
        block, site = self._chain[self._next[tile_index]]
        return Operation(tile_index, block, site)

    def _data_ready(self, tile: int) -> int | None:
        """When an operation's inputs are all there; None if that depends on others to come."""
        if self._next[tile] == len(self._chain):
            return None
        block, site = self._chain[self._next[tile]]
        if site == "proj" and self._attended[tile] <= block:
            return None
        if site == HEAD and any(self._next[t] < len(self._chain) for t in self._head_after[tile]):
            return None
        ready = self._ready[tile]
        if ready is None:
            access = self.emitter.inputs(Operation(tile, block, site))
            ready = self._ready[tile] = self.timeline.ready(needed([access], []))
        return ready

    def _bank_free(self) -> int:
        """When nothing reads the next bank any more."""
        emitter = self.emitter
        bank, rows = emitter.next_bank, emitter.config.rows
        need = needed((), (Access(emitter.banks, 0, rows, bank, bank + 1),))
        need[Unit.FRONT] = 0  # FRONT keeps its own order
        return self.timeline.ready(need)

    def _front_times(self) -> list[dict[str, int]]:
        times: list[dict[str, int]] = []
        for tile in range(self.rows.tiles):
            rows = self.rows.tile(tile).count
            tail = self.costs.times.front_tail + self.costs.times.memory
            each = {}
            for site in (*SITE_NAMES, HEAD):
                layer = self.emitter.layout.layer(0, site)
                words = layer.slices[0].groups * WORDS * layer.terms.inputs
                each[site] = rows * words + tail
            times.append(each)
        return times

    def _post_work(self) -> tuple[list[dict[str, float]], float]:
        """POST's cycles for each of MATRIX, by tile and layer; its mean cycles of an operation.

        POST drains a group of 16 rows once for each sequence (or class) with rows in it.
        """
        rows, layout = self.rows, self.emitter.layout
        shares, cycles = [], []
        for tile in range(rows.tiles):
            own = list(rows.groups(rows.tile(tile)))
            runs = [g for _, part in rows.runs(tile) for g in rows.groups(part)]
            parts = [g for _, part in rows.segments(tile) for g in rows.groups(part)]
            drains = {
                "qkv": len(parts), "proj": len(runs), "fc1": len(own), "fc2": len(runs),
                HEAD: len(parts),
            }  # fmt: skip
            layers = {site: layout.layer(0, site) for site in drains}
            sections = rows.sections_of(tile)
            work = {s: layers[s].groups * layers[s].array_passes for s in drains}
            shares.append({s: n * sections / work[s] for s, n in drains.items()})
            cycles += [n * layers[s].outputs for s, n in drains.items()]
        return shares, sum(cycles) / len(cycles)

    # Commitment ------------------------------------------------------------------------------
    def _commit(self, op: Operation) -> None:
        emitter = self.emitter
        layer = emitter.layout.layer(op.block, op.site)
        tiles = list(enumerate(layer.tiles))
        # Sums of a layer in parts stay in their banks until the last part.
        share = len(tiles) if len(layer.slices) == 1 else emitter.config.acc_banks
        for first in range(0, len(tiles), share):
            self._multiply(op, layer, tiles[first : first + share])
        self._next[op.tile] += 1
        self._ready[op.tile] = None
        if op.site == SITE_NAMES[-1]:
            self.block_ends[op.block] = self.timeline.done[Unit.POST][-1]
        if op.site == "qkv":
            self._qkv_done[op.tile] = op.block + 1
            self._attend(op.block, op.tile)

    def _multiply(
        self, op: Operation, layer: LayerPlan, tiles: list[tuple[int, WeightTile]]
    ) -> None:
        """All parts of the inputs through some tiles of outputs, set by set of the weights.

        Inputs in one part stay in their bank for both sets, and each tile is done with both before
        the next. Those in several are loaded again for the second set, so that the order of sums
        does not depend on the parts.
        """
        emitter, line = self.emitter, self.timeline
        banks: dict[int, int] = {}
        sets, parts = range(layer.terms.weights), layer.slices
        single = len(parts) == 1
        for turn, part in itertools.product([0] if single else sets, parts):
            for draft in emitter.front(op, part):
                line.add(draft)
            for number, tile in tiles:
                if turn == 0 and part.first == 0:
                    banks[number] = emitter.accumulator()
                for which in sets if single else (turn,):
                    fetches, matrix = emitter.matrix(op, part, tile, banks[number], which)
                    line.add(matrix)
                    for fetch in fetches:
                        line.add(fetch)
                if part.last and (single or turn == sets[-1]):
                    for draft in emitter.post(op, tile, number, banks[number]):
                        line.add(draft)

    def _attend(self, block: int, changed: int) -> None:
        """Attention of all tiles whose sequences are complete now."""
        for seq in sequences_in(self.rows, changed):
            tiles = _tiles_of(self.rows, seq.first, seq.tokens)
            if any(self._qkv_done[t] <= block for t in tiles):
                continue
            for part in self.emitter.attended(seq, tiles):
                for draft in self.emitter.attend(block, seq, part):
                    self.timeline.add(draft)
        for tile in range(self.rows.tiles):
            own = {t for s in sequences_in(self.rows, tile)
                   for t in _tiles_of(self.rows, s.first, s.tokens)}  # fmt: skip
            if self._attended[tile] == block and all(self._qkv_done[t] > block for t in own):
                self._attended[tile] = block + 1


def _tiles_of(rows: PassRows, first: int, count: int) -> range:
    return range(first // rows.tile_rows, (first + count - 1) // rows.tile_rows + 1)


def _head_order(rows: PassRows) -> list[set[int]]:
    """For each tile the others whose logits must be stored before its own are added."""
    stored: dict[int, set[int]] = {}
    for seq in rows.sequences:
        if not seq.conditional:
            stored[seq.step] = set(_tiles_of(rows, seq.first, seq.tokens))
    result = []
    for tile in range(rows.tiles):
        before: set[int] = set()
        for seq in sequences_in(rows, tile):
            if seq.accumulate:
                before |= stored[seq.step]
        result.append(before - {tile})
    return result


def program_order(timeline: Timeline, queue: int) -> Iterator[tuple[Unit, Scheduled]]:
    """All instructions, each after what it needs, in order of their modelled start.

    FETCH goes ahead of the MATRIX that uses its weights, as far as the queue allows: the sequencer
    must be able to pass it while no earlier weights have been used.
    """
    fetch, fetched = timeline.items[Unit.FETCH], 0
    per_matrix = _fetches_of(timeline)
    rest = [
        (item.start, int(unit), index)
        for unit in UNITS
        if unit != Unit.FETCH
        for index, item in enumerate(timeline.items[unit])
    ]
    ends = np.cumsum(per_matrix).tolist()
    lead = min(queue, 4)
    for _, unit_index, index in sorted(rest):
        unit = UNITS[unit_index]
        if unit == Unit.MATRIX:
            begun = ends[index - 1] if index else 0
            while fetched < len(fetch) and (fetched < ends[index] or fetched < begun + lead):
                yield Unit.FETCH, fetch[fetched]
                fetched += 1
        yield unit, timeline.items[unit][index]


def _fetches_of(timeline: Timeline) -> list[int]:
    """FETCH instructions of each MATRIX instruction, in order."""
    counts, at = [], 0
    fetch = timeline.items[Unit.FETCH]
    for matrix in timeline.items[Unit.MATRIX]:
        groups, count = int(matrix.draft.operands["groups"]), 0
        while groups:
            groups -= fetch[at].draft.operands["panels"]
            at, count = at + 1, count + 1
        counts.append(count)
    return counts
