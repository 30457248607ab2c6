# SPDX-License-Identifier: Apache-2.0
"""Instructions of random programs that have to do with attention: POST's QKV, and ATTEND."""

from __future__ import annotations

import numpy as np

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.isa import Opcode, PostOp, Region
from lutvar.contract.memory import RECORD_BYTES
from lutvar.contract.quant_preset import GROUP

from .draft import Cache, Draft, Rows


class Attention(Draft):
    """Records that are written, fresh ones, and queries that attend to either."""

    def _qkv(self, operands: dict[str, int], blocks: int, rows: int) -> None:
        """A POST with these operands; a GELU when there are more blocks than a layer has."""
        limit = self.config.max_width // HEAD_DIM
        heads = 2 * self.upto(min(-(-blocks // 3), limit // 2), limit // 2)
        total = heads + heads // 2
        if blocks > total:
            operands |= {"op": int(PostOp.GELU), "blocks": blocks, "vector": 0, "shift": 0}
            result = self.output("half", rows, blocks * GROUP)
            self.emit(Opcode.POST, **operands, output=result.at, output_stride=result.stride)
            self.pieces.rows.append(result)
            return
        first = self.upto(0, total - blocks)
        stride = self.stride(heads * RECORD_BYTES)
        head_stride = self.stride(rows * RECORD_BYTES)
        keys, values = (
            self.space(Region.WORK if self.one_in(3) else Region.CACHE, heads * head_stride,
                       Region.IO)
            for _ in range(2)
        )  # fmt: skip
        vectors = self.space(Region.MODEL, 2 * blocks * GROUP)
        self.fill("kappa", vectors, blocks * GROUP)
        kappa = int(np.float16(self.rng.choice([0.05, 0.2, 1.0, 3.0])).view(np.uint16))
        size = (rows - 1) * stride + heads * RECORD_BYTES
        queries = self.space(Region.WORK, size, Region.IO, Region.CACHE)
        operands |= {
            "vector": int(self.rng.integers(2)), "vector_address": vectors, "heads": heads,
            "scalar": kappa, "block_first": first,
            "output": queries, "output_stride": stride, "keys": keys, "values": values,
            "head_stride": head_stride,
        }  # fmt: skip
        self.emit(Opcode.POST, **operands)
        if first == 0 and blocks >= heads // 2:
            self.pieces.rows.append(Rows("queries", queries, stride, rows, heads))
        if first <= heads // 2 and first + blocks == total:
            self.pieces.caches.append(Cache(keys, values, head_stride, heads, rows))

    def _attend(self) -> None:
        """Queries and records that a QKV has written, or fresh ones in any region that may be."""
        heads = self.upto(1, self.config.max_width // HEAD_DIM)
        rows = self.upto(1, 2 * self.config.attention_rows + 3)
        old = [r for r in self.pieces.rows if r.kind == "queries"]
        queries = old[int(self.rng.integers(len(old)))] if old and self.one_in(2) else None
        caches = [] if self.one_in(3) else self.pieces.caches
        cache = caches[int(self.rng.integers(len(caches)))] if caches else None
        if queries is not None:
            heads, rows = min(heads, queries.size), min(rows, queries.rows)
        if cache is not None:
            heads = min(heads, cache.heads)
        queries = queries or self._queries(rows, heads)
        cache = cache or self._cache(heads)
        result = self.output("half", rows, heads * HEAD_DIM)
        self.emit(
            Opcode.ATTEND, rows=rows, heads=heads, keys=self.upto(1, cache.keys),
            query=queries.at, query_stride=queries.stride,
            keys_address=cache.keys_at, values_address=cache.values_at, head_stride=cache.stride,
            output=result.at, output_stride=result.stride,
        )  # fmt: skip
        if result.size % GROUP == 0:
            self.pieces.rows.append(result)

    def _queries(self, rows: int, heads: int) -> Rows:
        """Fresh q records; now and then the same for all rows."""
        stride = 0 if self.one_in(8) else self.stride(heads * RECORD_BYTES)
        size = (rows - 1) * stride + heads * RECORD_BYTES
        where = self.space(Region.IO, size, Region.CACHE, Region.MODEL)
        self.fill("queries", where, rows, heads, stride)
        return Rows("queries", where, stride, rows, heads)

    def _cache(self, heads: int) -> Cache:
        """Fresh K and V records, as many as an ATTEND takes; now and then all heads share them."""
        most = min(self.config.max_keys, 0x6000 // (heads * RECORD_BYTES))
        keys = self.upto(1, most)
        stride = 0 if self.one_in(8) else self.stride(keys * RECORD_BYTES)
        size = (heads - 1) * stride + keys * RECORD_BYTES
        where = self.space(Region.CACHE, 2 * size, Region.IO, Region.MODEL)
        self.fill("cache", where, heads, keys, stride, size)
        return Cache(where, where + size, stride, heads, keys)
