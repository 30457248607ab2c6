# SPDX-License-Identifier: Apache-2.0
"""Bins of instruction fields, error codes and rules: what programs must have held to test them.

Bins of a field are the values at the ends of what a right program may hold and one between them;
for choices each value; for addresses each region; for patterns 0 and anything else. A field
counts only where its instruction looks at it. Values that some rule refuses are bins of the rule,
and what no right program holds has no bin; the reasons stand where bins are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lutvar.contract.accelerator import (
    HEAD_DIM,
    ROW_GROUP,
    STRIPE,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
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
from lutvar.contract.memory import panel_shares
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import (
    WEIGHT_PORTS,
    DeviceError,
    HeaderRule,
    InstructionRule,
)
from lutvar.contract.sections import SECTIONS
from lutvar.sim.fuzz.meaning import has_meaning

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


def _limits(config: AcceleratorConfig) -> dict[tuple[Opcode, str], tuple[int, int | None]]:
    """Smallest and largest value that a right program holds, for fields that are numbers.

    The largest is None where memory for it would be more than any of these programs have: 255
    panels, 1,023 query rows.
    """
    heads = config.max_width // HEAD_DIM
    stripes = config.acc_depth // STRIPE * config.max_sections
    beats = [
        panel_shares(n * STRIPE, config.quant_config.code_bits, first, config.weight_ports).beats
        for n in range(1, stripes + 1) for first in (False, True)
    ]  # fmt: skip
    even = heads - heads % 2
    return {
        (Opcode.FETCH, "beats"): (min(beats), max(beats)),
        (Opcode.FETCH, "panels"): (1, None),
        (Opcode.FRONT, "rows"): (1, config.rows),
        (Opcode.FRONT, "row_first"): (0, config.rows - 1),
        (Opcode.FRONT, "groups"): (1, config.bank_groups),
        (Opcode.MATRIX, "rows"): (1, config.rows),
        (Opcode.MATRIX, "groups"): (1, config.bank_groups),
        (Opcode.MATRIX, "blocks"): (STRIPE // WEIGHT_BLOCK, stripes * STRIPE // WEIGHT_BLOCK),
        (Opcode.MATRIX, "exponent"): (-32, 31),
        (Opcode.POST, "rows"): (1, ROW_GROUP),
        (Opcode.POST, "row_first"): (0, ROW_GROUP - 1),
        (Opcode.POST, "blocks"): (1, stripes * STRIPE // GROUP),
        (Opcode.POST, "heads"): (2, even),
        (Opcode.POST, "block_first"): (0, even + even // 2 - 1),
        (Opcode.ATTEND, "rows"): (1, None),
        (Opcode.ATTEND, "heads"): (1, heads),
        (Opcode.ATTEND, "keys"): (1, config.max_keys),
    }


#: Fields that are never 0 in a right program: rows, or the records of two heads, that an
#: instruction writes would lie on each other, and nothing says in which order it writes them;
#: 1 / width is what it is; without epsilon a row of equal values has no standard deviation.
_NEVER_0 = {
    (Opcode.POST, "output_stride"), (Opcode.POST, "head_stride"), (Opcode.ATTEND, "output_stride"),
    (Opcode.FRONT, "inverse_width"), (Opcode.FRONT, "epsilon"),
}  # fmt: skip


def _regions(opcode: Opcode, name: str) -> tuple[Region, ...]:
    """Where an address of a right program lies (`host.compile.check`).

    Weights and AdaLN vectors lie in MODEL. Nobody writes there.
    """
    if opcode is Opcode.FETCH or name in ("scale", "shift"):
        return (Region.MODEL,)
    if name == "output" or (opcode is Opcode.POST and name == "values"):
        return tuple(r for r in Region if r is not Region.MODEL)
    return tuple(Region)


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
        regions = _regions(opcode, item.name)
        return {r.name: lambda v, r=r: split_address(v)[0] == r for r in regions}  # type: ignore[misc]
    if (opcode, item.name) in _limits(config):
        low, high = _limits(config)[opcode, item.name]
        found: Bins = {f"least ({low})": lambda v: v == low}
        if high is None:
            found["more"] = lambda v: v > low
        elif high > low:
            found[f"most ({high})"] = lambda v: v == high
            if high > low + 1:
                found["between"] = lambda v: low < v < high
        return found
    if item.name == "rest" and config.weight_ports == 1:  # there is no other port
        return {"0": lambda v: v == 0}
    if (opcode, item.name) in _NEVER_0:
        return {"not 0": lambda v: v != 0}
    return {"0": lambda v: v == 0, "not 0": lambda v: v != 0}


def field_bins(config: AcceleratorConfig, instructions: Iterable[Instruction]) -> Mapping[Bin, int]:
    """How many instructions fell into each bin of each field that they look at."""
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
            counts[bin_] += has_meaning(instruction, name) and fits(instruction.operands[name])
    return counts


def error_bins(config: AcceleratorConfig, errors: Iterable[tuple[int, int]]) -> Mapping[Bin, int]:
    """How often each error and rule that an accelerator can tell was provoked.

    Weight ports that are not there have no errors, and an accelerator with a dual format cannot
    miss it (the rule DUAL; tests/hw/sequencer builds one without).

    Args:
        config: the accelerator.
        errors: (ERROR, ERROR_INFO) of programs that ended so.
    """
    absent = {port.upper() for port in WEIGHT_PORTS[config.weight_ports :]}
    counts = {
        Bin("ERROR", code.name): 0 for code in DeviceError
        if code and code.name.partition("_")[2] not in absent
    }  # fmt: skip
    counts |= {Bin("header rule", rule.name): 0 for rule in HeaderRule}
    has_dual = config.quant_config.dual_format is not None
    counts |= {
        Bin("instruction rule", rule.name): 0 for rule in InstructionRule
        if not (rule is InstructionRule.DUAL and has_dual)
    }  # fmt: skip
    for code, info in errors:
        counts[Bin("ERROR", DeviceError(code).name)] += 1
        if code == DeviceError.BAD_HEADER:
            counts[Bin("header rule", HeaderRule(info).name)] += 1
        if code == DeviceError.BAD_INSTRUCTION:
            counts[Bin("instruction rule", InstructionRule(info >> 24).name)] += 1
    return counts
