# SPDX-License-Identifier: Apache-2.0
"""POST's instructions: where the results of a tile of weights go, 16 rows at a time.

qkv gives records, fc1 the hidden values, the head logits, proj and fc2 the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from lutvar.contract.isa import Opcode, PostOp, Region, address
from lutvar.contract.memory import RECORD_BYTES
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS

from .draft import Draft, Operation
from .hazards import Access, Cells
from .layer_plan import WeightTile
from .memory_plan import MemoryPlan
from .model_layout import HEAD, ModelLayout
from .steps import Rows, TokenRows
from .tensors import Tensors

ONE = 0x3C00  #: 1.0 as FP16
Operands = dict[str, int]
#: What a POST instruction has beyond what all of its tile have: operands, reads, writes.
_Sent = tuple[Operands, tuple[Access, ...], tuple[Access, ...]]
_Send = Callable[[Rows], _Sent]


class _Part(NamedTuple):
    """Rows of a tile that POST takes with the same vectors: class, sequence, groups of 16."""

    label: int
    sequence: TokenRows | None
    groups: list[tuple[int, int, Rows]]


class PostEmitter:
    """Makes the drafts of POST. How each tile of rows is taken apart is computed once.

    Args:
        layout: where the model lies.
        plan: where the tensors of the pass lie.
        tensors: their cells.
    """

    def __init__(self, layout: ModelLayout, plan: MemoryPlan, tensors: Tensors) -> None:
        self._layout, self._plan, self._rows, self._tensors = layout, plan, plan.rows, tensors
        self._parts = {site: [self._split(site, i) for i in range(plan.rows.tiles)] for site in
                       ("qkv", "proj", "fc1")}  # fmt: skip
        self._parts |= {"fc2": self._parts["proj"], HEAD: self._parts["qkv"]}

    def _split(self, site: str, tile: int) -> list[_Part]:
        """How POST takes the rows of a tile: by sequence, by class, or as they are."""
        parts: list[tuple[int, TokenRows | None, Rows]]
        if site == "qkv":
            parts = [(seq.label, seq, rows) for seq, rows in self._rows.segments(tile)]
        elif site == "fc1":
            parts = [(0, None, self._rows.tile(tile))]
        else:
            parts = [(label, None, rows) for label, rows in self._rows.runs(tile)]
        return [_Part(label, seq, list(self._rows.groups(rows))) for label, seq, rows in parts]

    def post(
        self, op: Operation, tile: WeightTile, number: int, accumulator: int
    ) -> Iterator[Draft]:
        """Send the results of one tile of weights on, 16 rows at a time."""
        fixed = {
            "acc_bank": accumulator, "blocks": tile.outputs // GROUP, "scalar": ONE,
            "vector": 0, "input": 0, "input_stride": 0, "vector_address": 0,
            "heads": 0, "block_first": 0, "keys": 0, "values": 0, "head_stride": 0, "shift": 0,
            "gate": 0, "sums": 0,
            "sections": SECTIONS.index(self._rows.sections_of(op.tile)),
        }  # fmt: skip
        sums = Access(self._tensors.accumulators, 0, 1, accumulator, accumulator + 1)
        make = {"qkv": self._records, "fc1": self._gelu, HEAD: self._logits}
        for part in self._parts[op.site][op.tile]:
            send = make.get(op.site, self._residual)(op, tile, number, part, fixed)
            for group, inside, rows in part.groups:
                more, reads, writes = send(rows)
                yield Draft(
                    Opcode.POST,
                    {**more, "rows": rows.count, "row_group": group, "row_first": inside},
                    op, rows, (sums, *reads), writes,
                )  # fmt: skip

    def _gelu(
        self, op: Operation, tile: WeightTile, number: int, _part: _Part, fixed: Operands
    ) -> _Send:
        plan, layout = self._plan, self._layout
        fixed = {**fixed, "op": int(PostOp.GELU), "output_stride": plan.h_stride}
        for name, flag, field in (
            ("factor", "vector", "vector_address"), ("shift", "shift", "input"),
        ):  # fmt: skip
            if name in layout.hidden:
                at = layout.hidden_vector(op.block, name) + tile.first * 2
                fixed |= {flag: 1, field: address(Region.MODEL, at)}

        def send(rows: Rows) -> _Sent:
            more = {**fixed, "output": plan.h(rows.first) + tile.first * 2}
            return more, (), (_span(self._tensors.h, rows, number),)

        return send

    def _records(
        self, op: Operation, tile: WeightTile, number: int, part: _Part, fixed: Operands
    ) -> _Send:
        plan, block, seq = self._plan, op.block, part.sequence
        assert seq is not None
        # Only blocks of q columns have a kappa; the address of a tile without any is not used.
        kappa = self._layout.kappa(block) + min(tile.first, self._layout.shape.width - GROUP) * 2
        fixed = {
            **fixed,
            "op": int(PostOp.QKV),
            "vector": 1,
            "vector_address": address(Region.MODEL, kappa),
            "output_stride": plan.q_stride,
            "heads": self._layout.shape.heads,
            "block_first": tile.first // GROUP,
            "head_stride": plan.head_stride,
        }
        keys = plan.keys(seq.slot, seq.conditional, block, 0)
        values = plan.values(seq.slot, seq.conditional, block, 0)
        before = seq.position - seq.first

        def send(rows: Rows) -> _Sent:
            token = (before + rows.first) * RECORD_BYTES
            more = {
                **fixed, "output": plan.q(rows.first), "keys": keys + token,
                "values": values + token,
            }  # fmt: skip
            spans = (
                _span(self._tensors.q, rows, number),
                _span(self._tensors.records[block], rows, number),
            )
            return more, (), spans

        return send

    def _residual(
        self, op: Operation, tile: WeightTile, number: int, part: _Part, fixed: Operands
    ) -> _Send:
        plan = self._plan
        name = "gate1" if op.site == "proj" else "gate2"
        gate = self._layout.block_vector(part.label, op.block, name)
        first = op.block == 0 and op.site == "proj"
        fixed = {
            **fixed,
            "op": int(PostOp.ADD),
            "vector": 1,
            "vector_address": address(Region.MODEL, gate + tile.first * 2),
            "output_stride": plan.x_stride,
            "input_stride": plan.x_stride,
        }

        def send(rows: Rows) -> _Sent:
            source = plan.embedding(rows.first) if first else plan.x(rows.first)
            more = {
                **fixed, "output": plan.x(rows.first) + tile.first * 4,
                "input": source + tile.first * 4,
            }  # fmt: skip
            spans = (_span(self._tensors.x, rows, number),)
            return more, () if first else spans, spans

        return send

    def _logits(
        self, _op: Operation, tile: WeightTile, number: int, part: _Part, fixed: Operands
    ) -> _Send:
        plan, seq = self._plan, part.sequence
        assert seq is not None
        step, first, accumulate = seq.step, seq.first, seq.accumulate
        fixed = {
            **fixed,
            "op": int(PostOp.ADD if accumulate else PostOp.STORE),
            "scalar": seq.scalar,
            "output_stride": plan.logit_stride,
        }
        if accumulate:
            fixed["input_stride"] = plan.logit_stride

        def send(rows: Rows) -> _Sent:
            token = rows.first - first
            more = {**fixed, "output": plan.logits(step, token) + tile.first * 4}
            if accumulate:
                more["input"] = more["output"]
            end = token + rows.count
            spans = (Access(self._tensors.logits[step], token, end, number, number + 1),)
            return more, spans if accumulate else (), spans

        return send


def _span(cells: Cells, rows: Rows, number: int) -> Access:
    """Rows in the column of a tile of weights."""
    return Access(cells, rows.first, rows.first + rows.count, number, number + 1)
