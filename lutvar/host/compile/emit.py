# SPDX-License-Identifier: Apache-2.0
"""The instructions of one operation: a tile of rows through one layer of the transformer.

An operation fills one activation bank (FRONT), multiplies it with each tile of weights into an
accumulator bank (FETCH, MATRIX) and sends the results on (POST). After qkv, ATTEND follows.
Banks are given out in turn (those that are too small are passed over), so all units but ATTEND
see operations in one order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import numpy as np

from lutvar.contract.accelerator import BEAT_BYTES, HEAD_DIM, LANES, ROW_GROUP
from lutvar.contract.isa import Opcode, Region, address
from lutvar.contract.memory import RECORD_BYTES, panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, section_heads

from .draft import Draft, Operation
from .emit_post import PostEmitter
from .hazards import Access
from .layer_plan import InputSlice, WeightTile
from .memory_plan import MemoryPlan
from .model_layout import HEAD, NORM_SITES, ModelLayout
from .steps import PassRows, Rows, TokenRows
from .tensors import Tensors

#: A FRONT or ATTEND instruction of more than this many cycles is split, so that others can follow.
CHUNK_CYCLES = 4096


def float32_pattern(value: float) -> int:
    """Bits of the float32 nearest to a value."""
    return int(np.float32(value).view(np.uint32))


class Emitter:
    """Makes the drafts of a pass.

    What only depends on a tile of rows, a layer or a class is computed once: a deep model has the
    same few tiles and sequences in each of its layers.

    Args:
        layout: where the model lies.
        plan: where the tensors of the pass lie.
        exponents: scale exponent e of each set of weights, in the order of `layout.layers`.
        epsilon: of the norms.
    """

    def __init__(
        self, layout: ModelLayout, plan: MemoryPlan, exponents: list[int], epsilon: float
    ) -> None:
        self.layout, self.plan, self.rows = layout, plan, plan.rows
        self.config, self.shape = layout.config, layout.shape
        self.exponents, self.epsilon = exponents, float32_pattern(epsilon)
        self.inverse = float32_pattern(1 / self.shape.width)
        self.tensors = tensors = Tensors(layout, plan)
        self.banks, self.accumulators = tensors.banks, tensors.accumulators
        self.post = PostEmitter(layout, plan, tensors).post
        self._bank, self._accumulator = -1, -1
        self.tiles = [self.rows.tile(i) for i in range(self.rows.tiles)]
        self._sections = [self.rows.sections_of(i) for i in range(self.rows.tiles)]
        self._shares: dict[tuple[int, bool], dict[str, int]] = {}
        x, o, h = tensors.x, tensors.o, tensors.h
        self._sources = {"qkv": x, "proj": o, "fc1": x, "fc2": h, HEAD: x}
        self._chunked: dict[tuple[int, bool, int], list[tuple[int, Rows]]] = {}

    @property
    def next_bank(self) -> int:
        """Activation bank of the next FRONT instruction: they take turns."""
        return (self._bank + 1) % self.config.act_banks

    @staticmethod
    def _chunk(rows: float) -> int:
        return max(ROW_GROUP, round(rows / ROW_GROUP) * ROW_GROUP)

    # FRONT -----------------------------------------------------------------------------------
    def inputs(self, op: Operation) -> Access:
        """What must be there before an operation can begin."""
        rows = self.tiles[op.tile]
        return Access(self._sources[op.site], rows.first, rows.first + rows.count)

    def front(self, op: Operation, part: InputSlice) -> Iterator[Draft]:
        """Fill the next activation bank with a part of the inputs."""
        bank = self._bank = self.next_bank
        layer, first = self.layout.layer(op.block, op.site), self.tiles[op.tile].first
        norm = op.site in NORM_SITES
        source, embedded = self._sources[op.site], self._embedded(op)
        rotate, dual, terms = int(layer.rotate), int(layer.dual), layer.terms.inputs - 1
        vectors: dict[int, tuple[int, int]] = {}
        for label, rows in self._chunks(op.tile, norm, part.groups):
            if label not in vectors:
                vectors[label] = self._vectors(op, label)
            scale, shift = vectors[label]
            at, stride = self._row_source(op, rows)
            at += part.first * GROUP * 2  # FP16: rows with norm are whole
            inside = rows.first - first
            yield Draft(
                Opcode.FRONT,
                {
                    "address": at, "stride": stride, "rows": rows.count, "row_first": inside,
                    "bank": bank, "groups": part.groups, "norm": int(norm),
                    "rotate": rotate, "dual": dual, "scale": scale, "shift": shift,
                    "inverse_width": self.inverse if norm else 0,
                    "epsilon": self.epsilon if norm else 0,
                    "sections": SECTIONS.index(self._sections[op.tile]), "terms": terms,
                },
                op, rows,
                () if embedded else (Access(source, rows.first, rows.first + rows.count),),
                self._bank_rows(op.tile, inside, rows.count),
            )  # fmt: skip

    def _bank_rows(self, tile: int, first: int, count: int) -> tuple[Access, ...]:
        """Rows of a tile in the present activation bank: each section holds them."""
        heads = section_heads(self.config.row_groups, self._sections[tile])
        starts = (first + head * ROW_GROUP for head in heads)
        bank = self._bank
        return tuple(Access(self.banks, at, at + count, bank, bank + 1) for at in starts)

    def _chunks(self, tile: int, norm: bool, groups: int) -> list[tuple[int, Rows]]:
        """(label, rows): parts of a tile that end where groups of 16 rows of the tile end.

        Rows with norm are split at classes; the parts take about `CHUNK_CYCLES`.
        """
        key = tile, norm, groups
        if key not in self._chunked:
            runs = list(self.rows.runs(tile)) if norm else [(0, self.tiles[tile])]
            chunk, base = self._chunk(CHUNK_CYCLES / (groups * GROUP // LANES)), self.tiles[tile]
            parts: list[tuple[int, Rows]] = []
            for label, run in runs:
                at, end = run.first, run.first + run.count
                while at < end:
                    inside = at - base.first
                    stop = min(end, at - inside % ROW_GROUP + chunk)
                    parts.append((label, Rows(tile, at, stop - at)))
                    at = stop
            self._chunked[key] = parts
        return self._chunked[key]

    @staticmethod
    def _embedded(op: Operation) -> bool:
        """The residual stream of the first block's first half is the embeddings."""
        return op.block == 0 and op.site == "qkv"

    def _vectors(self, op: Operation, label: int) -> tuple[int, int]:
        """Addresses of AdaLN scale and shift of a class; zeros for rows without norm."""
        if op.site in ("proj", "fc2"):
            return 0, 0
        layout = self.layout
        if op.site == HEAD:
            scale, shift = (layout.head_vector(label, name) for name in ("scale", "shift"))
        else:
            half = "1" if op.site == "qkv" else "2"
            scale, shift = (
                layout.block_vector(label, op.block, f"{name}{half}") for name in ("scale", "shift")
            )
        return address(Region.MODEL, scale), address(Region.MODEL, shift)

    def _row_source(self, op: Operation, rows: Rows) -> tuple[int, int]:
        """Address of the first row of the inputs, and bytes from row to row."""
        plan = self.plan
        if op.site == "proj":
            return plan.o(rows.first), plan.o_stride
        if op.site == "fc2":
            return plan.h(rows.first), plan.h_stride
        at = plan.embedding(rows.first) if self._embedded(op) else plan.x(rows.first)
        return at, plan.x_stride

    # MATRIX ----------------------------------------------------------------------------------
    def accumulator(self) -> int:
        """The next accumulator bank."""
        self._accumulator = (self._accumulator + 1) % self.config.acc_banks
        return self._accumulator

    def matrix(
        self, op: Operation, part: InputSlice, tile: WeightTile, accumulator: int, number: int = 0
    ) -> tuple[list[Draft], Draft]:
        """Fetch a set of weights of a part of the inputs and a tile of outputs; multiply them."""
        layer, tile_rows = self.layout.layer(op.block, op.site), self.tiles[op.tile]
        index = self.layout.set_index(op.block, op.site, number)
        more = part.first > 0 or number > 0
        start = address(Region.MODEL, layer.slice_offset(tile, part, number))
        # The first panel has biases and so another length: an instruction of its own.
        fetches = [
            Draft(
                Opcode.FETCH,
                {
                    "address": at, **self._port_shares(tile.outputs, biased), "panels": panels,
                    "repeat": layer.passes,
                },
                op, tile_rows,
            )
            for at, biased, panels in (
                (start, True, 1),
                (start + tile.first_beats * BEAT_BYTES, False, part.groups - 1),
            )
            if panels
        ]  # fmt: skip
        # Sums that go on follow in the unit's own order: nothing to wait for.
        sums = (Access(self.accumulators, 0, 1, accumulator, accumulator + 1),)
        matrix = Draft(
            Opcode.MATRIX,
            {
                "bank": self._bank, "acc_bank": accumulator, "groups": part.groups,
                "blocks": tile.blocks, "dual": int(layer.dual),
                "exponent": self.exponents[index], "rows": tile_rows.count,
                "more": int(more), "sections": SECTIONS.index(self._sections[op.tile]),
                "terms": layer.terms.inputs - 1,
            },
            op, tile_rows, self._bank_rows(op.tile, 0, tile_rows.count),
            () if more else sums,
            sums if more else (),
        )  # fmt: skip
        return fetches, matrix

    def _port_shares(self, outputs: int, biased: bool) -> dict[str, int]:
        """Fields of FETCH that say how a panel divides over the weight ports."""
        key = outputs, biased
        if key not in self._shares:
            bits, ports = self.config.quant_config.code_bits, self.config.weight_ports
            self._shares[key] = asdict(panel_shares(outputs, bits, biased, ports))
        return self._shares[key]

    # ATTEND ----------------------------------------------------------------------------------
    def attended(self, seq: TokenRows, tiles: range) -> Iterator[Rows]:
        """Rows of a sequence for each of its tiles, each row once.

        A part that ends within a block of query rows takes the first rows of the next tile along,
        until the block is full, where that spares the next part a pass over the keys.
        """
        share, end = self.config.attention_rows, seq.first + seq.tokens
        ends = [min(self.tiles[t].first + self.tiles[t].count, end) for t in tiles]
        at = seq.first
        for tile, stop, following in zip(tiles, ends, [*ends[1:], end], strict=True):
            free, rest = (at - stop) % share, following - stop
            if -(-(rest - free) // share) < -(-rest // share):
                stop = min(stop + free, following)
            if at < stop:
                yield Rows(tile, at, stop - at)
                at = stop

    def attend(self, block: int, seq: TokenRows, part: Rows) -> Iterator[Draft]:
        """Attention of some rows of a sequence, whose records must all be written before.

        Split by heads: the unit reads keys and values of a head once for all rows.
        """
        plan, total = self.plan, self.shape.heads
        blocks = -(-part.count // self.config.attention_rows)
        cycles = blocks * max(seq.keys + self.config.attention_rows, 40)
        chunk = max(1, round(4 * CHUNK_CYCLES / cycles))
        op = Operation(part.tile, block, "attention")
        end = part.first + part.count
        reads = (
            Access(self.tensors.q, part.first, end),
            Access(self.tensors.records[block], seq.first, seq.first + seq.tokens),
        )
        for head in range(0, total, chunk):
            heads = min(chunk, total - head)
            yield Draft(
                Opcode.ATTEND,
                {
                    "rows": part.count, "heads": heads, "keys": seq.keys,
                    "query": plan.q(part.first) + head * RECORD_BYTES,
                    "query_stride": plan.q_stride,
                    "keys_address": plan.keys(seq.slot, seq.conditional, block, 0)
                    + head * plan.head_stride,
                    "values_address": plan.values(seq.slot, seq.conditional, block, 0)
                    + head * plan.head_stride,
                    "head_stride": plan.head_stride,
                    "output": plan.o(part.first) + head * 2 * HEAD_DIM,
                    "output_stride": plan.o_stride,
                },
                op, part, reads, (Access(self.tensors.o, part.first, end, head, head + heads),),
            )  # fmt: skip


def sequences_in(rows: PassRows, tile: int) -> list[TokenRows]:
    """Sequences that have rows in a tile."""
    return [seq for seq, _ in rows.segments(tile)]
