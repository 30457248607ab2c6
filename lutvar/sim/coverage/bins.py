# SPDX-License-Identifier: Apache-2.0
"""Bins of instruction fields, error codes and rules: what programs must have held to test them.

Bins of a field are the values that an accelerator allows at its ends and one between them; for
choices each value; for addresses each region; for signed numbers both signs; for patterns two
different ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lutvar.contract.accelerator import HEAD_DIM, ROW_GROUP, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.column_sums import SumMode
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    OperandField,
    PostOp,
    Region,
    split_address,
)
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import DeviceError, HeaderRule, InstructionRule
from lutvar.contract.sections import SECTIONS

Bins = dict[str, Callable[[int], bool]]


@dataclass(frozen=True)
class Bin:
    """A value or kind of values of a field, or an error that was provoked.

    Attributes:
        group: "FETCH.beats" or "DeviceError".
        name: of the bin.
    """

    group: str
    name: str


def _limits(config: AcceleratorConfig) -> dict[tuple[Opcode, str], tuple[int, int]]:
    """Smallest and largest value that the accelerator takes, for fields that it limits."""
    heads, depth = config.max_width // HEAD_DIM, config.acc_depth
    return {
        (Opcode.FRONT, "rows"): (1, config.rows),
        (Opcode.FRONT, "row_first"): (0, config.rows - 1),
        (Opcode.FRONT, "groups"): (1, config.bank_groups),
        (Opcode.MATRIX, "rows"): (1, config.rows),
        (Opcode.MATRIX, "groups"): (1, config.bank_groups),
        (Opcode.MATRIX, "blocks"): (GROUP // WEIGHT_BLOCK, depth // WEIGHT_BLOCK),
        (Opcode.POST, "rows"): (1, ROW_GROUP),
        (Opcode.POST, "row_first"): (0, ROW_GROUP - 1),
        (Opcode.POST, "blocks"): (1, depth // GROUP),
        (Opcode.POST, "heads"): (2, heads - heads % 2),
        (Opcode.ATTEND, "heads"): (1, heads),
        (Opcode.ATTEND, "keys"): (1, config.max_keys),
        (Opcode.FETCH, "beats"): (1, 1 << 20),
    }


def _choices(config: AcceleratorConfig) -> dict[str, tuple[int, ...]]:
    """Fields whose every value counts."""
    dual = config.quant_config.dual_format is not None
    return {
        "bank": tuple(range(config.act_banks)),
        "acc_bank": tuple(range(config.acc_banks)),
        "row_group": tuple(range(config.row_groups)),
        "repeat": (1, 2) if dual or config.input_terms > 1 else (1,),
        "dual": (0, 1) if dual else (0,),
        "terms": tuple(range(config.input_terms)),
        "op": tuple(op for op in map(int, PostOp) if config.decoder or op <= PostOp.QKV),
        "gate": (0, 1) if config.decoder else (0,),
        "sums": tuple(map(int, SumMode)) if config.decoder else (0,),
        "full": tuple(range(1, config.weight_ports + 1)),
        "sections": tuple(range(SECTIONS.index(config.max_sections) + 1)),
    }


def bins_of(config: AcceleratorConfig, opcode: Opcode, item: OperandField) -> Bins:
    """Bins of a field: name -> does a value belong to it?"""
    choices = _choices(config)
    if item.name in choices or item.width == 1:
        values = choices.get(item.name, (0, 1))
        kind = {"op": PostOp, "sums": SumMode}.get(item.name)
        names = [kind(v).name if kind else str(v) for v in values]
        return {name: lambda v, k=k: v == k for name, k in zip(names, values, strict=True)}  # type: ignore[misc]
    if item.kind == "address":
        return {r.name: lambda v, r=r: split_address(v)[0] == r for r in Region}  # type: ignore[misc]
    if item.signed:
        return {"negative": lambda v: v < 0, "0 and above": lambda v: v >= 0}
    if (opcode, item.name) in _limits(config):
        low, high = _limits(config)[opcode, item.name]
        found: Bins = {f"least ({low})": lambda v: v == low}
        if high > low + 1:
            found["between"] = lambda v: low < v < high
        if high > low and (opcode, item.name) != (Opcode.FETCH, "beats"):
            found[f"most ({high})"] = lambda v: v == high
        return found
    return {"0": lambda v: v == 0, "not 0": lambda v: v != 0}


def field_bins(config: AcceleratorConfig, instructions: Iterable[Instruction]) -> Mapping[Bin, int]:
    """How many instructions fell into each bin of each field."""
    tests = {
        opcode: [
            (item.name, Bin(f"{opcode.name}.{item.name}", name), fits)
            for item in fields
            for name, fits in bins_of(config, opcode, item).items()
        ]
        for opcode, fields in PAYLOAD_FIELDS.items()
    }
    counts = {bin_: 0 for entries in tests.values() for _, bin_, _ in entries}
    for instruction in instructions:
        for name, bin_, fits in tests[instruction.opcode]:
            counts[bin_] += fits(instruction.operands[name])
    return counts


def error_bins(errors: Iterable[tuple[int, int]]) -> Mapping[Bin, int]:
    """How often each error and rule was provoked.

    Args:
        errors: (ERROR, ERROR_INFO) of programs that ended so.
    """
    counts = {Bin("ERROR", code.name): 0 for code in DeviceError if code}
    counts |= {Bin("header rule", rule.name): 0 for rule in HeaderRule}
    counts |= {Bin("instruction rule", rule.name): 0 for rule in InstructionRule}
    for code, info in errors:
        counts[Bin("ERROR", DeviceError(code).name)] += 1
        if code == DeviceError.BAD_HEADER:
            counts[Bin("header rule", HeaderRule(info).name)] += 1
        if code == DeviceError.BAD_INSTRUCTION:
            counts[Bin("instruction rule", InstructionRule(info >> 24).name)] += 1
    return counts
