# SPDX-License-Identifier: Apache-2.0
"""What an instruction moves on which memory port, transfer by transfer, as the units say it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lutvar.contract.accelerator import BEAT_BYTES, HEAD_DIM, AcceleratorConfig
from lutvar.contract.column_sums import COLUMN_BYTES
from lutvar.contract.isa import Instruction, Opcode, PostOp
from lutvar.contract.memory import RECORD_BYTES, port_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import WEIGHT_PORTS

Window = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """Equal transfers of one instruction on one port.

    Attributes:
        port: as in the register map.
        write: direction.
        address: of the first one, as an address field.
        size: bytes of each.
        repeats: (count, stride in bytes), the outermost first.
        offset: bytes from `address` to the first one.
    """

    port: str
    write: bool
    address: int
    size: int
    repeats: tuple[tuple[int, int], ...] = ()
    offset: int = 0

    @property
    def beats(self) -> int:
        """Beats of all of them."""
        total = self.size // BEAT_BYTES
        for count, _ in self.repeats:
            total *= count
        return total

    def span(self, base: int) -> Window:
        """First byte and end of all of them together."""
        start = base + self.offset
        return start, start + sum((n - 1) * stride for n, stride in self.repeats) + self.size

    def starts(self, base: int) -> Iterator[int]:
        """Where each of them starts, in order."""
        starts = [base + self.offset]
        for count, stride in self.repeats:
            starts = [at + i * stride for at in starts for i in range(count)]
        return iter(starts)


def pieces(item: Instruction, config: AcceleratorConfig) -> list[Piece]:
    """What an instruction moves, port by port."""
    o = item.operands
    if item.opcode == Opcode.FETCH:
        return _fetch(o, config)
    if item.opcode == Opcode.FRONT:
        return _front(o)
    if item.opcode == Opcode.POST:
        return _post(o)
    if item.opcode == Opcode.ATTEND:
        return _attend(o)
    return []


def _fetch(o: Mapping[str, int], config: AcceleratorConfig) -> list[Piece]:
    shares = port_beats(o["beats"], o["full"], o["rest"], config.weight_ports)
    repeats = ((o["panels"], sum(shares) * BEAT_BYTES), (o["repeat"], 0))
    return [
        Piece(port, False, o["address"], n * BEAT_BYTES, repeats, sum(shares[:i]) * BEAT_BYTES)
        for i, (port, n) in enumerate(zip(WEIGHT_PORTS, shares, strict=False))
        if n
    ]


def _front(o: Mapping[str, int]) -> list[Piece]:
    width = o["groups"] * GROUP
    result = [Piece("front", False, o[v], 2 * width) for v in ("scale", "shift") if o["norm"]]
    size = width * (4 if o["norm"] else 2)
    return [*result, Piece("front", False, o["address"], size, ((o["rows"], o["stride"]),))]


def _post(o: Mapping[str, int]) -> list[Piece]:
    if o["op"] == PostOp.QKV:
        return _records(o)
    rows, blocks, result = o["rows"], o["blocks"], []
    if o["op"] == PostOp.SUMS:
        # A block's 32 beats are four writes.
        size = GROUP * COLUMN_BYTES // 4
        return [Piece("post", True, o["output"], size, ((4 * blocks, size),))]
    if o["vector"]:
        result.append(Piece("post", False, o["vector_address"], 2 * GROUP, ((blocks, 2 * GROUP),)))
    shifts = {PostOp.GELU: "input", PostOp.NORM: "keys"}.get(PostOp(o["op"]))
    if shifts and o["shift"]:
        result.append(Piece("post", False, o[shifts], 2 * GROUP, ((blocks, 2 * GROUP),)))
    if o["op"] in (PostOp.ADD, PostOp.NORM):
        repeats = ((blocks, 4 * GROUP), (rows, o["input_stride"]))
        result.append(Piece("post", False, o["input"], 4 * GROUP, repeats))
    size = GROUP * (4 if o["op"] in (PostOp.STORE, PostOp.ADD) else 2)
    repeats = ((blocks, size), (rows, o["output_stride"]))
    return [*result, Piece("post", True, o["output"], size, repeats)]


def _records(o: Mapping[str, int]) -> list[Piece]:
    rows, first, end = o["rows"], o["block_first"], o["block_first"] + o["blocks"]
    queries = o["heads"] * HEAD_DIM // GROUP  # blocks of q columns
    result, count = [], min(end, queries) - first
    size = GROUP // HEAD_DIM * RECORD_BYTES
    if count > 0:
        if o["vector"]:
            repeats: tuple[tuple[int, int], ...] = ((count, 2 * GROUP),)
            result.append(Piece("post", False, o["vector_address"], 2 * GROUP, repeats))
        repeats = ((count, size), (rows, o["output_stride"]))
        result.append(Piece("post", True, o["output"], size, repeats, first * size))
    head = max(first, queries)
    if end > head:
        repeats, offset = ((end - head, o["head_stride"]),), (head - queries) * o["head_stride"]
        for name in ("values", "keys"):
            result.append(Piece("post", True, o[name], rows * RECORD_BYTES, repeats, offset))
    return result


def _attend(o: Mapping[str, int]) -> list[Piece]:
    rows, heads, size = o["rows"], o["heads"], o["keys"] * RECORD_BYTES
    each = (heads, o["head_stride"])
    query = ((heads, RECORD_BYTES), (rows, o["query_stride"]))
    output = ((heads, 2 * HEAD_DIM), (rows, o["output_stride"]))
    return [
        Piece("keys", False, o["query"], RECORD_BYTES, query),
        Piece("keys", False, o["keys_address"], size, (each,)),
        Piece("values", False, o["values_address"], size, (each,)),
        Piece("values", True, o["output"], 2 * HEAD_DIM, output),
    ]
