# SPDX-License-Identifier: Apache-2.0
"""Where the tensors of a pass lie in regions WORK, IO and CACHE.

WORK holds, for each row of the pass: x, the residual stream (float32 [C]); q, one record a head;
o, the attention's result (FP16 [C]); h, GELU's result (FP16 [hidden]). IO holds the embeddings of
all rows in order of rows (float32 [C]), then the logits of each image step in the caller's order
(float32 [tokens, padded vocabulary]). CACHE holds, for each slot, half (conditional first) and
block, the K records and then the V records, `[heads][tokens of an image]` each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lutvar.contract.isa import ALIGN, Region, address
from lutvar.contract.memory import RECORD_BYTES
from lutvar.contract.shape import TransformerShape

from .layer_plan import padded
from .model_layout import PAGE
from .steps import PassRows


def _page(size: int) -> int:
    return -(-size // PAGE) * PAGE


@dataclass(frozen=True)
class MemoryPlan:
    """Addresses of a pass's tensors; `*_stride` are bytes from row to row."""

    shape: TransformerShape
    rows: PassRows

    # Strides ---------------------------------------------------------------------------------
    @cached_property
    def x_stride(self) -> int:
        """Bytes from one row of x to the next."""
        return self.shape.width * 4

    @cached_property
    def q_stride(self) -> int:
        """Bytes from one row of q records to the next."""
        return self.shape.heads * RECORD_BYTES

    @cached_property
    def o_stride(self) -> int:
        """Bytes from one row of attention results to the next."""
        return self.shape.width * 2

    @cached_property
    def h_stride(self) -> int:
        """Bytes from one row of hidden values to the next."""
        return self.shape.hidden * 2

    @cached_property
    def logit_stride(self) -> int:
        """Bytes from one token's logits to the next's."""
        return padded(self.shape.vocab) * 4

    @cached_property
    def head_stride(self) -> int:
        """Bytes from one head's records to the next's in the cache."""
        return self.shape.tokens * RECORD_BYTES

    # WORK ------------------------------------------------------------------------------------
    @cached_property
    def _bases(self) -> tuple[int, int, int, int]:
        n = self.rows.rows
        q = _page(n * self.x_stride)
        o = q + _page(n * self.q_stride)
        h = o + _page(n * self.o_stride)
        return q, o, h, h + _page(n * self.h_stride)

    @cached_property
    def _work(self) -> tuple[int, int, int, int]:
        """Addresses of row 0 of x, q, o and h; strides keep what `address` checks."""
        q, o, h, end = self._bases
        address(Region.WORK, end - ALIGN)
        return (
            address(Region.WORK, 0), address(Region.WORK, q), address(Region.WORK, o),
            address(Region.WORK, h),
        )  # fmt: skip

    def x(self, row: int) -> int:
        """Address of a row of x, the residual stream."""
        return self._work[0] + row * self.x_stride

    def q(self, row: int) -> int:
        """Address of a row of q records."""
        return self._work[1] + row * self.q_stride

    def o(self, row: int) -> int:
        """Address of a row of attention results."""
        return self._work[2] + row * self.o_stride

    def h(self, row: int) -> int:
        """Address of a row of hidden values."""
        return self._work[3] + row * self.h_stride

    @property
    def work_size(self) -> int:
        """Bytes of WORK that the pass needs."""
        return self._bases[3]

    # IO --------------------------------------------------------------------------------------
    def embedding_offset(self, row: int) -> int:
        """Offset in IO of a row's embedding, float32 [C]."""
        return row * self.x_stride

    def logits_offset(self, step: int) -> int:
        """Offset in IO of an image step's logits, float32 [tokens, padded vocabulary]."""
        before = sum(s.tokens for s in self.rows.steps[:step])
        return _page(self.rows.rows * self.x_stride) + before * self.logit_stride

    def embedding(self, row: int) -> int:
        """Address of the embedding of a row."""
        return address(Region.IO, self.embedding_offset(row))

    def logits(self, step: int, token: int) -> int:
        """Address of the logits of a step's token."""
        return address(Region.IO, self.logits_offset(step) + token * self.logit_stride)

    @property
    def io_size(self) -> int:
        """Bytes of IO that the pass needs."""
        return self.logits_offset(len(self.rows.steps))

    # CACHE -----------------------------------------------------------------------------------
    @cached_property
    def array_bytes(self) -> int:
        """Bytes of the K (or V) records of one slot, half and block."""
        return self.shape.heads * self.head_stride

    @cached_property
    def slot_bytes(self) -> int:
        """Bytes of one cache slot."""
        return _page(2 * self.shape.depth * 2 * self.array_bytes)

    def _cache(self, slot: int, conditional: bool, block: int, values: bool, token: int) -> int:
        index = ((0 if conditional else 1) * self.shape.depth + block) * 2 + values
        offset = slot * self.slot_bytes + index * self.array_bytes + token * RECORD_BYTES
        return address(Region.CACHE, offset)

    def keys(self, slot: int, conditional: bool, block: int, token: int) -> int:
        """K record of head 0 and a token of the image."""
        return self._cache(slot, conditional, block, False, token)

    def values(self, slot: int, conditional: bool, block: int, token: int) -> int:
        """V record of head 0 and a token of the image."""
        return self._cache(slot, conditional, block, True, token)

    @property
    def cache_size(self) -> int:
        """Bytes of CACHE up to the last slot that the pass uses."""
        return (1 + max(s.slot for s in self.rows.steps)) * self.slot_bytes
