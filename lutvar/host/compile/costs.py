# SPDX-License-Identifier: Apache-2.0
"""How long an instruction occupies its unit, how long until it is done, and what it moves.

The formulas are those that the units document. An instruction *occupies* its unit until the next
one may follow; its results are there `tail` cycles later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from lutvar.contract.accelerator import (
    BEAT_BYTES,
    LANES,
    ROW_GROUP,
    STRIPE,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.column_sums import COLUMN_BYTES
from lutvar.contract.isa import Instruction, Opcode, PostOp
from lutvar.contract.memory import panel_shares, port_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, rounds
from lutvar.contract.widths import DRAIN_VALUES, drain_latency

#: Memory ports that weights come through, in order; a build has the first of them.
WEIGHTS = ("weights", "weights1", "weights2", "weights3")
#: Memory ports, each 64 bytes a cycle.
PORTS = (*WEIGHTS, "front", "post_read", "post_write", "keys", "values", "attend_write")


_GELU, _QKV = int(PostOp.GELU), int(PostOp.QKV)
_NORM, _SUMS = int(PostOp.NORM), int(PostOp.SUMS)


@dataclass(frozen=True)
class UnitTimes:
    """Constants of the cycle model, in cycles. Each unit's docstring has the formula.

    Attributes:
        memory: from a read request to its first beat; from a write to its response.
        memory_bytes: bytes a cycle of all ports together, for the choice of tiles: 68 GB/s at 250
            MHz, the memory of the VCK190.
        fill: MATRIX, from the start of an operand to its first vector.
        operand: MATRIX, from the start of an operand to that of the next, at least.
        matrix_start, matrix_tail: from the command to the first vector; from the last one to done.
        front_tail: FRONT, from the last word to done; with norm the statistics and a row more.
        front_second: from the last word of term 1 to that of term 2.
        post_issue: POST, between instructions: pauses where the path changes, on average.
        post_tail: from the last block's first value to the last write, without its rows.
        post_gelu, post_records: more of it for GELU, and when records are made.
        post_norm, post_sums: of NORM and SUMS, from the first beat in the lanes to the last write,
            without what they take for their beats.
        post_drain: from the start to a block's first value in the lanes, beyond what its fetch
            takes without the memory.
        attend_min: ATTEND, fewest cycles of a block of n query rows beyond `4 n`.
        attend_tail: from the last key of a block to its results, without the keys' second pass.
    """

    memory: int = 100
    memory_bytes: int = 272
    fill: int = 1
    operand: int = 13
    matrix_start: int = 16
    matrix_tail: int = 34
    front_tail: int = 95
    front_second: int = 32
    front_statistics: int = 136
    post_issue: int = 2
    post_tail: int = 107
    post_gelu: int = 16
    post_records: int = 27
    post_norm: int = 64
    post_sums: int = 57
    post_drain: int = 59
    attend_min: int = 12
    attend_tail: int = 120


#: Cycles that scaling and accumulation, and POST's sums, are shorter in DSP58 than in LUTs.
_DSP58_SAVES, _DSP58_SAVES_POST = 13, 10


def unit_times(config: AcceleratorConfig) -> UnitTimes:
    """The constants of a configuration."""
    chain, post = config.row_groups, UnitTimes()
    if config.float32 == "dsp58":
        chain -= _DSP58_SAVES
        post = replace(
            post, post_tail=post.post_tail - _DSP58_SAVES_POST,
            post_records=post.post_records + _DSP58_SAVES_POST,
            post_norm=post.post_norm - _DSP58_SAVES_POST,
            post_sums=post.post_sums - _DSP58_SAVES_POST,
        )  # fmt: skip
    if config.dot == "da":
        return replace(post, fill=78, operand=191, matrix_start=215, matrix_tail=35 + chain)
    return replace(post, matrix_tail=33 + chain)


@dataclass(frozen=True)
class Cost:
    """Cycles of an instruction, bytes of each port while it occupies its unit.

    Of MATRIX also: `issue`, cycles in which the array takes a weight vector; `starts`, those in
    which it takes none because operands are made ready.
    """

    occupied: int
    tail: int
    traffic: tuple[tuple[str, int], ...] = ()
    issue: int = 0
    starts: int = 0


class CostModel:
    """Costs of instructions on one accelerator. Equal operands are computed once."""

    def __init__(self, config: AcceleratorConfig, times: UnitTimes | None = None) -> None:
        self.config = config
        self.times = times or unit_times(config)
        self._fetch_cost = lru_cache(maxsize=None)(self._fetch)
        self._matrix_cost = lru_cache(maxsize=None)(self._matrix)
        self._front_cost = lru_cache(maxsize=None)(self._front)
        self._post_cost = lru_cache(maxsize=None)(self._post)
        self._attend_cost = lru_cache(maxsize=None)(self._attend)
        self._by_opcode = {
            Opcode.FETCH: self._of_fetch,
            Opcode.FRONT: self._of_front,
            Opcode.MATRIX: self._of_matrix,
            Opcode.POST: self._of_post,
            Opcode.ATTEND: self._of_attend,
        }

    def of(self, opcode: Opcode, operands: Mapping[str, int]) -> Cost:
        """The cost of an instruction."""
        cost = self._by_opcode.get(opcode)
        return Cost(0, 0) if cost is None else cost(operands)

    def _of_fetch(self, o: Mapping[str, int]) -> Cost:
        return self._fetch_cost(o["beats"], o["full"], o["rest"], o["panels"] * o["repeat"])

    def _of_front(self, o: Mapping[str, int]) -> Cost:
        return self._front_cost(o["rows"], o["groups"], o["norm"], o["terms"])

    def _of_matrix(self, o: Mapping[str, int]) -> Cost:
        return self._matrix_cost(
            o["groups"], o["blocks"], o["dual"] + o["terms"], SECTIONS[o["sections"]]
        )

    def _of_post(self, o: Mapping[str, int]) -> Cost:
        vectors, op = o["vector"], o["op"]
        if op == _QKV:  # k and v have no factors
            vectors &= o["block_first"] < o["heads"] // 2
        elif op in (_GELU, _NORM):
            vectors += o["shift"]
        return self._post_cost(o["rows"], o["blocks"], op, vectors)

    def _of_attend(self, o: Mapping[str, int]) -> Cost:
        return self._attend_cost(o["rows"], o["heads"], o["keys"])

    def instruction(self, instruction: Instruction) -> Cost:
        """Cost of an instruction."""
        return self.of(instruction.opcode, instruction.operands)

    def _fetch(self, beats: int, full: int, rest: int, panels: int) -> Cost:
        """A panel's shares come side by side; that of the first port is the largest."""
        each = port_beats(beats, full, rest, self.config.weight_ports)
        traffic = ((name, n * panels * BEAT_BYTES) for name, n in zip(WEIGHTS, each, strict=False))
        return Cost(beats * panels, self.times.memory, tuple(traffic))

    def _matrix(self, groups: int, blocks: int, again: int, sections: int) -> Cost:
        """`again`: passes over a group after the first, for a dual format or a second term."""
        t, passes, bits = self.times, 1 + again, self.config.quant_config.code_bits
        outputs, ports = blocks * WEIGHT_BLOCK, self.config.weight_ports
        columns = rounds(outputs, sections) * STRIPE
        vectors = columns if self.config.pipelined else columns * t.matrix_tail
        # A vector for each section a cycle; 32 vectors are 33 beats (49 at 6 bits), and each port
        # brings a beat a cycle.
        each, first = (panel_shares(outputs, bits, first, ports).beats for first in (False, True))

        def operand(beats: int) -> int:
            if ports == 1:
                return max(max(vectors, beats) + t.fill - 1, t.operand)
            # Beats of several ports also come, into queues, while an operand is made ready.
            return max(vectors + t.fill - 1, beats, t.operand)

        cycles = passes * ((groups - 1) * operand(each) + operand(first))
        tail = t.matrix_start + t.matrix_tail
        starts = groups * passes * (operand(each) - max(vectors, each))
        return Cost(cycles, tail, (), groups * passes * columns, starts)

    def _front(self, rows: int, groups: int, norm: int, terms: int) -> Cost:
        t, width = self.times, groups * GROUP
        words = width // LANES
        tail = t.front_tail + t.memory
        cycles, moved = rows * words, rows * width * 2
        if norm:
            moved = rows * width * 4 + 2 * width * 2
            tail += t.front_statistics + words
            cycles += rows + 2 * words
        if terms:  # the quantizer takes each word twice, the last ones after all others
            cycles, tail = max(cycles, 2 * rows * words), tail + t.front_second
        return Cost(cycles, tail, (("front", moved),))

    def _post(self, rows: int, blocks: int, op: int, vectors: int) -> Cost:
        t, columns = self.times, blocks * GROUP
        if op == _SUMS:
            written = columns * COLUMN_BYTES
            cycles = t.post_issue + written // BEAT_BYTES
            return Cost(cycles, t.post_sums + t.memory, (("post_write", written),))
        read = columns * 2 * vectors
        if op == _NORM:
            # Bound by reading: a row's eight beats, a vector's four.
            traffic = ("post_read", read + rows * columns * 4), ("post_write", rows * columns * 2)
            cycles = t.post_issue + blocks * (8 * rows + 4 * vectors)
            return Cost(cycles, t.post_norm + 2 * t.memory, traffic)
        written = rows * columns * 4
        # 16 rows are drained, whatever part of them is used.
        drain = GROUP * ROW_GROUP // DRAIN_VALUES
        compute, more = 8 * rows, 0
        if op == PostOp.ADD:
            compute += 4 * vectors
            read += written
        elif op == PostOp.GELU:
            compute, written, more = 4 * rows, written // 2, t.post_gelu
        elif op == PostOp.QKV:
            # A record of 64 bytes for 64 columns; those of k of all rows are one write.
            compute, written, more = 4 * rows, rows * columns, t.post_records + rows
        block, latency = max(drain, compute), drain_latency(self.config)
        # The last block counts whole in what is occupied; few rows leave it sooner.
        tail = t.post_tail + latency + compute + more - block + t.memory
        if read:
            # A second vector comes four beats later.
            tail += max(0, t.memory + 4 * max(0, vectors - 1) - t.post_drain - latency)
        traffic = (("post_read", read), ("post_write", written))
        return Cost(t.post_issue + blocks * block, tail, traffic)

    def _attend(self, rows: int, heads: int, keys: int) -> Cost:
        t, share = self.times, self.config.attention_rows
        full, rest = divmod(rows, share)
        cycles = full * self._attend_block(share, keys)
        if rest:
            cycles += self._attend_block(rest, keys)
        moved = heads * keys * BEAT_BYTES  # a head's records serve all of its blocks
        return Cost(
            heads * cycles,
            t.attend_tail + t.memory + keys,
            (
                ("keys", moved + rows * heads * BEAT_BYTES),
                ("values", moved),
                ("attend_write", rows * heads * 128),
            ),
        )

    def _attend_block(self, rows: int, keys: int) -> int:
        return max(rows + keys + 1, self.times.attend_min + 4 * rows)
