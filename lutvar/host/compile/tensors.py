# SPDX-License-Identifier: Apache-2.0
"""The tensors of a pass and the banks, as cells that instructions write and read.

One unit writes each, in rows of the pass (banks: of a tile) and columns: tiles of outputs, heads,
or banks.
"""

from __future__ import annotations

from lutvar.contract.isa import Unit

from .hazards import Cells
from .memory_plan import MemoryPlan
from .model_layout import HEAD, ModelLayout


class Tensors:
    """Cells of everything that instructions of a pass share.

    Attributes:
        x, q, o, h: see `memory_plan`; columns are tiles of outputs, of o heads.
        records: K and V of each block.
        logits: of each image step, rows are its tokens.
        banks: activation banks; columns are banks, rows those of a tile.
        accumulators: columns are banks.
    """

    def __init__(self, layout: ModelLayout, plan: MemoryPlan) -> None:
        n, shape, config = plan.rows.rows, layout.shape, layout.config
        count = {s: len(layout.layer(0, s).tiles) for s in ("qkv", "proj", "fc1", HEAD)}
        front, post, attend = Unit.FRONT, Unit.POST, Unit.ATTEND
        self.x = Cells(n, count["proj"], post, (front, post))
        self.q = Cells(n, count["qkv"], post, (attend,))
        self.o = Cells(n, shape.heads, attend, (front,))
        self.h = Cells(n, count["fc1"], post, (front,))
        self.records = [Cells(n, count["qkv"], post, (attend,)) for _ in range(shape.depth)]
        self.logits = [Cells(s.tokens, count[HEAD], post, (post,)) for s in plan.rows.steps]
        self.banks = Cells(config.rows, config.act_banks, front, (Unit.MATRIX,))
        self.accumulators = Cells(1, config.acc_banks, Unit.MATRIX, (post,))
