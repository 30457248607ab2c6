# SPDX-License-Identifier: Apache-2.0
"""Which fields of an instruction have a meaning in it; the others may hold anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lutvar.contract.isa import Instruction, Opcode, PostOp

Operands = Mapping[str, int]
_Test = Callable[[Operands], bool]


def _norm(o: Operands) -> bool:
    return bool(o["norm"])


def _qkv(o: Operands) -> bool:
    return o["op"] == PostOp.QKV


def _rows_in(o: Operands) -> bool:
    return o["op"] in (PostOp.ADD, PostOp.NORM)


def _sums_read(o: Operands) -> bool:
    """POST takes rows of an accumulator."""
    return o["op"] not in (PostOp.NORM, PostOp.SUMS)


def _shifted(op: PostOp) -> _Test:
    return lambda o: o["op"] == op and bool(o["shift"])


def _several(o: Operands) -> bool:
    return o["rows"] > 1


#: Fields that not every instruction of their kind looks at.
_TESTS: Mapping[Opcode, Mapping[str, _Test]] = {
    Opcode.FRONT: {
        "stride": _several,
        **dict.fromkeys(("scale", "shift", "inverse_width", "epsilon"), _norm),
    },
    Opcode.POST: {
        **dict.fromkeys(("acc_bank", "row_group", "row_first", "sections"), _sums_read),
        **dict.fromkeys(("rows", "vector"), lambda o: o["op"] != PostOp.SUMS),
        "scalar": lambda o: o["op"] != PostOp.SUMS and not o["vector"],
        "vector_address": lambda o: o["op"] != PostOp.SUMS and bool(o["vector"]),
        "output_stride": lambda o: o["op"] != PostOp.SUMS and _several(o),
        "input": lambda o: _rows_in(o) or _shifted(PostOp.GELU)(o),
        "input_stride": lambda o: _rows_in(o) and _several(o),
        "keys": lambda o: _qkv(o) or _shifted(PostOp.NORM)(o),
        **dict.fromkeys(("heads", "block_first", "values", "head_stride"), _qkv),
        "shift": lambda o: o["op"] in (PostOp.GELU, PostOp.NORM),
        "gate": lambda o: o["op"] == PostOp.NORM,
    },
    Opcode.ATTEND: {
        **dict.fromkeys(("query_stride", "output_stride"), _several),
        "head_stride": lambda o: o["heads"] > 1,
    },
}


def has_meaning(item: Instruction, name: str) -> bool:
    """An instruction looks at a field."""
    test = _TESTS.get(item.opcode, {}).get(name)
    return test is None or test(item.operands)
