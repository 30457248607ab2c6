# SPDX-License-Identifier: Apache-2.0
"""What an instruction reads and writes, from its operands alone: memory lines and banks.

Independent of the compiler: this is how a unit reads the fields. A line is 64 bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import HEAD_DIM, ROW_GROUP, AcceleratorConfig
from lutvar.contract.column_sums import COLUMN_BYTES
from lutvar.contract.isa import ALIGN, Instruction, Opcode, PostOp, Region, split_address
from lutvar.contract.memory import port_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.sections import SECTIONS, section_heads

Lines = NDArray[np.int64]
Operands = Mapping[str, int]


@dataclass
class Footprint:
    """Lines by region; bank rows as (bank, first, count), rows of the array; accumulator banks.

    Weights and vectors in MODEL are only listed as `model`: (address, bytes). Vectors of NORM may
    lie anywhere and are among `reads`.
    """

    reads: list[tuple[Region, Lines]] = field(default_factory=list)
    writes: list[tuple[Region, Lines]] = field(default_factory=list)
    model: list[tuple[int, int]] = field(default_factory=list)
    bank_reads: list[tuple[int, int, int]] = field(default_factory=list)
    bank_writes: list[tuple[int, int, int]] = field(default_factory=list)
    accumulator_reads: list[int] = field(default_factory=list)
    accumulator_writes: list[int] = field(default_factory=list)


def _lines(address: int, size: int, *repeats: tuple[int, int]) -> tuple[Region, Lines]:
    """Lines of `size` bytes at an address, repeated: (count, stride in bytes), ..."""
    region, offset = split_address(address)
    lines = np.arange(offset // ALIGN, (offset + size) // ALIGN, dtype=np.int64)
    for count, stride in repeats:
        lines = (np.arange(count, dtype=np.int64)[:, None] * (stride // ALIGN) + lines).ravel()
    return region, lines


def footprint(instruction: Instruction, config: AcceleratorConfig) -> Footprint:
    """What an instruction reads and writes on an accelerator."""
    handler = _HANDLERS.get(instruction.opcode)
    return handler(instruction.operands, config) if handler else Footprint()


def _fetch(o: Operands, config: AcceleratorConfig) -> Footprint:
    lines = sum(port_beats(o["beats"], o["full"], o["rest"], config.weight_ports))
    return Footprint(model=[(o["address"], lines * o["panels"] * ALIGN)])


def _bank(o: Operands, config: AcceleratorConfig, first: int) -> list[tuple[int, int, int]]:
    """Rows of a tile from `first` on in an activation bank: every section holds them."""
    heads = section_heads(config.row_groups, SECTIONS[o["sections"]])
    return [(o["bank"], head * ROW_GROUP + first, o["rows"]) for head in heads]


def _front(o: Operands, config: AcceleratorConfig) -> Footprint:
    width = o["groups"] * GROUP
    size = width * (4 if o["norm"] else 2)
    result = Footprint(
        reads=[_lines(o["address"], size, (o["rows"], o["stride"]))],
        bank_writes=_bank(o, config, o["row_first"]),
    )
    if o["norm"]:
        result.model = [(o["scale"], width * 2), (o["shift"], width * 2)]
    return result


def _matrix(o: Operands, config: AcceleratorConfig) -> Footprint:
    return Footprint(bank_reads=_bank(o, config, 0), accumulator_writes=[o["acc_bank"]])


def _post(o: Operands, _config: AcceleratorConfig) -> Footprint:
    rows, columns = o["rows"], o["blocks"] * GROUP
    if o["op"] == PostOp.SUMS:
        return Footprint(writes=[_lines(o["output"], columns * COLUMN_BYTES)])
    norm = o["op"] == PostOp.NORM
    result = Footprint(accumulator_reads=[] if norm else [o["acc_bank"]])
    if norm:
        vectors = {"vector": "vector_address", "shift": "keys"}
        result.reads = [_lines(o[at], columns * 2) for name, at in vectors.items() if o[name]]
    elif o["vector"] and o["op"] != PostOp.QKV:
        result.model = [(o["vector_address"], columns * 2)]
    if o["op"] == PostOp.GELU and o["shift"]:
        result.model.append((o["input"], columns * 2))
    if o["op"] == PostOp.QKV:
        _records(o, result)
        return result
    size = columns * (2 if o["op"] in (PostOp.GELU, PostOp.NORM) else 4)
    result.writes = [_lines(o["output"], size, (rows, o["output_stride"]))]
    if o["op"] in (PostOp.ADD, PostOp.NORM):
        result.reads.append(_lines(o["input"], columns * 4, (rows, o["input_stride"])))
    return result


def _records(o: Operands, result: Footprint) -> None:
    rows, heads = o["rows"], o["heads"]
    for block in range(o["block_first"], o["block_first"] + o["blocks"]):
        if block < heads * HEAD_DIM // GROUP:
            at = o["output"] + block * 2 * ALIGN
            result.writes.append(_lines(at, 2 * ALIGN, (rows, o["output_stride"])))
            local = block - o["block_first"]
            result.model.append((o["vector_address"] + local * 2 * GROUP, 2 * GROUP))
            continue
        head = block - heads * HEAD_DIM // GROUP
        for name in ("keys", "values"):
            at = o[name] + head * o["head_stride"]
            result.writes.append(_lines(at, rows * ALIGN))


def _attend(o: Operands, _config: AcceleratorConfig) -> Footprint:
    rows, heads = o["rows"], o["heads"]
    reads = [_lines(o["query"], heads * ALIGN, (rows, o["query_stride"]))]
    for name in ("keys_address", "values_address"):
        reads.append(_lines(o[name], o["keys"] * ALIGN, (heads, o["head_stride"])))
    writes = [_lines(o["output"], heads * HEAD_DIM * 2, (rows, o["output_stride"]))]
    return Footprint(reads=reads, writes=writes)


_HANDLERS: Mapping[Opcode, Callable[[Operands, AcceleratorConfig], Footprint]] = {
    Opcode.FETCH: _fetch,
    Opcode.FRONT: _front,
    Opcode.MATRIX: _matrix,
    Opcode.POST: _post,
    Opcode.ATTEND: _attend,
}


def row_range(operands: Operands) -> tuple[int, int]:
    """First row of the tile and rows that a POST instruction uses."""
    return operands["row_group"] * ROW_GROUP + operands["row_first"], operands["rows"]
