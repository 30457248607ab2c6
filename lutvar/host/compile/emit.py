# SPDX-License-Identifier: Apache-2.0
"""The instructions of one operation: a tile of rows through one layer of the transformer.

An operation fills one activation bank (FRONT), multiplies it with each tile of weights into an
accumulator bank (FETCH, MATRIX) and sends the results on (POST). After qkv, ATTEND follows.
Banks are given out in turn (those that are too small are passed over), so all units but ATTEND
see operations in one order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lutvar.contract.accelerator import HEAD_DIM, LANES, ROW_GROUP
from lutvar.contract.isa import Opcode, PostOp, Region, address
from lutvar.contract.memory import RECORD_BYTES
from lutvar.contract.quant_preset import GROUP, SITE_NAMES

from .draft import Draft, Operation
from .hazards import Access, Cells
from .memory_plan import MemoryPlan
from .model_layout import HEAD, InputSlice, ModelLayout, WeightTile
from .steps import PassRows, Rows, TokenRows

#: A FRONT or ATTEND instruction of more than this many cycles is split, so that others can follow.
CHUNK_CYCLES = 4096
ONE = 0x3C00  #: 1.0 as FP16


def float32_pattern(value: float) -> int:
    """Bits of the float32 nearest to a value."""
    return int(np.float32(value).view(np.uint32))


class Emitter:
    """Makes the drafts of a pass.

    Args:
        layout: where the model lies.
        plan: where the tensors of the pass lie.
        exponents: scale exponent e of each layer, in the order of `layout.layers`.
        epsilon: of the norms.
    """

    def __init__(
        self, layout: ModelLayout, plan: MemoryPlan, exponents: list[int], epsilon: float
    ) -> None:
        self.layout, self.plan, self.rows = layout, plan, plan.rows
        self.config, self.shape = layout.config, layout.shape
        self.exponents, self.epsilon = exponents, float32_pattern(epsilon)
        self.inverse = float32_pattern(1 / self.shape.width)
        n, shape = self.rows.rows, self.shape
        count = {s: len(layout.layer(0, s).tiles) for s in ("qkv", "proj", "fc1", HEAD)}
        self.x = Cells(n, count["proj"])
        self.q = Cells(n, count["qkv"])
        self.o = Cells(n, shape.heads)
        self.h = Cells(n, count["fc1"])
        self.records = [Cells(n, count["qkv"]) for _ in range(shape.depth)]
        self.logits = [Cells(s.tokens, count[HEAD]) for s in self.rows.steps]
        self.banks = Cells(self.config.act_banks, self.config.rows)
        self.accumulators = Cells(self.config.acc_banks)
        self._bank, self._accumulator = -1, -1

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
        tile_rows = self.rows.tile(op.tile)
        cells = {"qkv": self.x, "proj": self.o, "fc1": self.x, "fc2": self.h, HEAD: self.x}
        return Access(cells[op.site], (slice(tile_rows.first, tile_rows.first + tile_rows.count),))

    def front(self, op: Operation, part: InputSlice) -> Iterator[Draft]:
        """Fill the next activation bank with a part of the inputs."""
        self._bank = self.next_bank
        layer, tile_rows = self.layout.layer(op.block, op.site), self.rows.tile(op.tile)
        norm = op.site in ("qkv", "fc1", HEAD)
        runs = list(self.rows.runs(op.tile)) if norm else [(0, tile_rows)]
        chunk = self._chunk(CHUNK_CYCLES / (part.groups * GROUP // LANES))
        source = self.inputs(op).cells
        for label, run in runs:
            for rows in self._chunks(run, chunk):
                span = slice(rows.first, rows.first + rows.count)
                inside = rows.first - tile_rows.first
                at, stride, scale, shift = self._row_source(op, rows, label)
                at += part.first * GROUP * 2  # FP16: rows with norm are whole
                yield Draft(
                    Opcode.FRONT,
                    {
                        "address": at, "stride": stride, "rows": rows.count, "row_first": inside,
                        "bank": self._bank, "groups": part.groups, "norm": int(norm),
                        "rotate": int(layer.rotate), "dual": int(layer.dual),
                        "scale": scale, "shift": shift,
                        "inverse_width": self.inverse if norm else 0,
                        "epsilon": self.epsilon if norm else 0,
                    },
                    op, rows,
                    [] if self._embedded(op) else [Access(source, (span,))],
                    [Access(self.banks, (self._bank, slice(inside, inside + rows.count)))],
                )  # fmt: skip

    def _chunks(self, run: Rows, chunk: int) -> Iterator[Rows]:
        """Parts of about `chunk` rows that end where groups of 16 rows of the tile end."""
        base = run.tile * self.rows.tile_rows
        at, end = run.first, run.first + run.count
        while at < end:
            stop = min(end, base + ((at - base) // ROW_GROUP * ROW_GROUP) + chunk)
            yield Rows(run.tile, at, stop - at)
            at = stop

    @staticmethod
    def _embedded(op: Operation) -> bool:
        """The residual stream of the first block's first half is the embeddings."""
        return op.block == 0 and op.site == "qkv"

    def _row_source(self, op: Operation, rows: Rows, label: int) -> tuple[int, int, int, int]:
        plan, layout = self.plan, self.layout
        if op.site == "proj":
            return plan.o(rows.first), plan.o_stride, 0, 0
        if op.site == "fc2":
            return plan.h(rows.first), plan.h_stride, 0, 0
        if op.site == HEAD:
            vectors = [layout.head_vector(label, name) for name in ("scale", "shift")]
        else:
            half = "1" if op.site == "qkv" else "2"
            vectors = [
                layout.block_vector(label, op.block, f"{name}{half}") for name in ("scale", "shift")
            ]
        at = plan.embedding(rows.first) if self._embedded(op) else plan.x(rows.first)
        scale, shift = (address(Region.MODEL, v) for v in vectors)
        return at, plan.x_stride, scale, shift

    # MATRIX ----------------------------------------------------------------------------------
    def accumulator(self) -> int:
        """The next accumulator bank."""
        self._accumulator = (self._accumulator + 1) % self.config.acc_banks
        return self._accumulator

    def matrix(
        self, op: Operation, part: InputSlice, tile: WeightTile, accumulator: int
    ) -> tuple[list[Draft], Draft]:
        """Fetch the weights of a part of the inputs and a tile of outputs; multiply them."""
        layer, tile_rows = self.layout.layer(op.block, op.site), self.rows.tile(op.tile)
        index = len(self.layout.layers) - 1 if op.site == HEAD else self._index(op)
        # The first panel has biases and so another length: an instruction of its own.
        first, *others = layer.panels(tile, part)
        fetches = [
            Draft(
                Opcode.FETCH,
                {
                    "address": address(Region.MODEL, panels[0].offset), "beats": panels[0].beats,
                    "panels": len(panels), "repeat": layer.passes,
                },
                op, tile_rows,
            )
            for panels in ([first], others)
            if panels
        ]  # fmt: skip
        matrix = Draft(
            Opcode.MATRIX,
            {
                "bank": self._bank, "acc_bank": accumulator, "groups": part.groups,
                "blocks": tile.blocks, "dual": int(layer.dual),
                "exponent": self.exponents[index], "rows": tile_rows.count,
                "more": int(part.first > 0),
            },
            op, tile_rows,
            [Access(self.banks, (self._bank, slice(0, tile_rows.count)))],
        )  # fmt: skip
        # Sums that go on follow in the unit's own order: nothing to wait for.
        sums = matrix.extends if part.first else matrix.writes
        sums.append(Access(self.accumulators, (accumulator,)))
        return fetches, matrix

    def _index(self, op: Operation) -> int:
        return op.block * 4 + SITE_NAMES.index(op.site)

    # POST ------------------------------------------------------------------------------------
    def post(
        self, op: Operation, tile: WeightTile, number: int, accumulator: int
    ) -> Iterator[Draft]:
        """Send the results of one tile of weights on, 16 rows at a time."""
        parts: list[tuple[int, TokenRows | None, Rows]]
        if op.site in ("qkv", HEAD):
            parts = [(seq.label, seq, rows) for seq, rows in self.rows.segments(op.tile)]
        elif op.site == "fc1":
            parts = [(0, None, self.rows.tile(op.tile))]
        else:
            parts = [(label, None, rows) for label, rows in self.rows.runs(op.tile)]
        for label, seq, part in parts:
            for group, inside, rows in self.rows.groups(part):
                draft = self._post_draft(op, tile, rows, accumulator)
                draft.operands |= {"row_group": group, "row_first": inside}
                if op.site == "qkv":
                    assert seq is not None
                    self._to_records(draft, tile, number, seq, rows)
                elif op.site == "fc1":
                    draft.operands |= {
                        "op": int(PostOp.GELU),
                        "output": self.plan.h(rows.first) + tile.first * 2,
                        "output_stride": self.plan.h_stride,
                    }
                    draft.writes.append(self._span(self.h, rows, number))
                elif op.site == HEAD:
                    assert seq is not None
                    self._to_logits(draft, tile, number, seq, rows)
                else:
                    self._to_residual(draft, tile, number, label, rows)
                yield draft

    def _post_draft(self, op: Operation, tile: WeightTile, rows: Rows, accumulator: int) -> Draft:
        operands = {
            "acc_bank": accumulator, "rows": rows.count, "blocks": tile.outputs // GROUP,
            "vector": 0, "scalar": ONE, "input": 0, "input_stride": 0, "vector_address": 0,
            "heads": 0, "block_first": 0, "keys": 0, "values": 0, "head_stride": 0,
        }  # fmt: skip
        reads = [Access(self.accumulators, (accumulator,))]
        return Draft(Opcode.POST, operands, op, rows, reads)

    @staticmethod
    def _span(cells: Cells, rows: Rows, number: int) -> Access:
        return Access(cells, (slice(rows.first, rows.first + rows.count), number))

    def _to_records(
        self, draft: Draft, tile: WeightTile, number: int, seq: TokenRows, rows: Rows
    ) -> None:
        plan, block = self.plan, draft.operation.block
        token = seq.position + rows.first - seq.first
        # Only blocks of q columns have a kappa; the address of a tile without any is not used.
        kappa = self.layout.kappa(block) + min(tile.first, self.shape.width - GROUP) * 2
        draft.operands |= {
            "op": int(PostOp.QKV),
            "vector": 1,
            "vector_address": address(Region.MODEL, kappa),
            "output": plan.q(rows.first),
            "output_stride": plan.q_stride,
            "heads": self.shape.heads,
            "block_first": tile.first // GROUP,
            "keys": plan.keys(seq.slot, seq.conditional, block, token),
            "values": plan.values(seq.slot, seq.conditional, block, token),
            "head_stride": plan.head_stride,
        }
        draft.writes += [
            self._span(self.q, rows, number),
            self._span(self.records[block], rows, number),
        ]

    def _to_residual(
        self, draft: Draft, tile: WeightTile, number: int, label: int, rows: Rows
    ) -> None:
        op, plan = draft.operation, self.plan
        gate = self.layout.block_vector(label, op.block, "gate1" if op.site == "proj" else "gate2")
        first = op.block == 0 and op.site == "proj"
        source = plan.embedding(rows.first) if first else plan.x(rows.first)
        draft.operands |= {
            "op": int(PostOp.ADD),
            "vector": 1,
            "vector_address": address(Region.MODEL, gate + tile.first * 2),
            "output": plan.x(rows.first) + tile.first * 4,
            "output_stride": plan.x_stride,
            "input": source + tile.first * 4,
            "input_stride": plan.x_stride,
        }
        span = self._span(self.x, rows, number)
        if not first:
            draft.reads.append(span)
        draft.writes.append(span)

    def _to_logits(
        self, draft: Draft, tile: WeightTile, number: int, seq: TokenRows, rows: Rows
    ) -> None:
        token = rows.first - seq.first
        at = self.plan.logits(seq.step, token) + tile.first * 4
        draft.operands |= {
            "op": int(PostOp.ADD if seq.accumulate else PostOp.STORE),
            "scalar": seq.scalar,
            "output": at,
            "output_stride": self.plan.logit_stride,
        }
        span = Access(self.logits[seq.step], (slice(token, token + rows.count), number))
        if seq.accumulate:
            draft.operands |= {"input": at, "input_stride": self.plan.logit_stride}
            draft.reads.append(span)
        draft.writes.append(span)

    # ATTEND ----------------------------------------------------------------------------------
    def attend(self, block: int, seq: TokenRows, part: Rows) -> Iterator[Draft]:
        """Attention of some rows of a sequence, whose records must all be written before.

        Split by heads: the unit reads keys and values of a head once for all rows.
        """
        plan, total = self.plan, self.shape.heads
        blocks = -(-part.count // self.config.attention_rows)
        cycles = blocks * max(seq.keys + self.config.attention_rows, 40)
        chunk = max(1, round(4 * CHUNK_CYCLES / cycles))
        op = Operation(part.tile, block, "attention")
        span = slice(part.first, part.first + part.count)
        everything = slice(seq.first, seq.first + seq.tokens)
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
                op, part,
                [Access(self.q, (span,)), Access(self.records[block], (everything,))],
                [Access(self.o, (span, slice(head, head + heads)))],
            )  # fmt: skip


def sequences_in(rows: PassRows, tile: int) -> list[TokenRows]:
    """Sequences that have rows in a tile."""
    return [seq for seq, _ in rows.segments(tile)]
