# SPDX-License-Identifier: Apache-2.0
"""What the sequencer must say to a program: its rules again, in Python.

Written from `docs/isa.md` and the rules' descriptions, not from the gateware, so that the two
check each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from lutvar.contract.accelerator import HEAD_DIM, ROW_GROUP, WEIGHT_BLOCK, AcceleratorConfig
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import (
    ALIGN,
    HEADER_FIELDS,
    INSTRUCTION_BYTES,
    MARK,
    MAX_INSTRUCTIONS,
    PAYLOAD_FIELDS,
    PROGRAM_HEADER,
    PROGRAM_MAGIC,
    READINGS_AHEAD,
    Opcode,
    PostOp,
    Region,
    decode,
    split_address,
)
from lutvar.contract.memory import panel_beats
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import DeviceError, HeaderRule, InstructionRule
from lutvar.host.compile.footprint import footprint

from .contents import BASES, SIZES
from .malformed import get

Operands = Mapping[str, int]
Rules = dict[InstructionRule, bool]
_COMMON = {f.name: f for f in HEADER_FIELDS}


@cache
def _hash(config: AcceleratorConfig) -> int:
    return accelerator_hash(config)


def header_rule(config: AcceleratorConfig, word: int) -> HeaderRule | None:
    """The rule that a program's first word breaks, the lowest of several."""
    head = {f.name: get(word, f) for f in PROGRAM_HEADER}
    end = max(f.low + f.width for f in PROGRAM_HEADER)
    broken = {
        HeaderRule.MAGIC: head["magic"] != PROGRAM_MAGIC,
        HeaderRule.HASH: head["hash"] != _hash(config),
        HeaderRule.LENGTH: not 0 < head["length"] <= MAX_INSTRUCTIONS,
        HeaderRule.ZERO: head["zero"] != 0 or word >> end != 0,
    }
    return next((rule for rule in HeaderRule if broken.get(rule)), None)


def instruction_rule(
    config: AcceleratorConfig, word: int, index: int, last: bool
) -> InstructionRule | None:
    """The rule that an instruction breaks by itself, the lowest of several."""
    head = {name: get(word, f) for name, f in _COMMON.items()}
    broken: Rules = {
        InstructionRule.MARK: head["mark"] != MARK or head["zero"] != 0,
        InstructionRule.INDEX: head["index"] != index & 0xFFFF,
        InstructionRule.OPCODE: head["opcode"] not in list(Opcode),
        InstructionRule.END: (head["opcode"] == Opcode.END) != last,
    }
    if not broken[InstructionRule.OPCODE]:
        opcode = Opcode(head["opcode"])
        fields = PAYLOAD_FIELDS[opcode]
        used = sum((1 << f.width) - 1 << f.low for f in (*HEADER_FIELDS, *fields))
        operands = {f.name: get(word, f) for f in fields}
        broken[InstructionRule.UNUSED] = word & ~used != 0
        broken[InstructionRule.ALIGNMENT] = any(
            operands[f.name] % ALIGN for f in fields
            if f.kind == "address" or f.name.endswith("stride")
        )  # fmt: skip
        broken[InstructionRule.DUAL] = bool(
            config.quant_config.dual_format is None and operands.get("dual")
        )
        if opcode in _RULES:
            broken |= _RULES[opcode](config, operands)
    return next((rule for rule in InstructionRule if broken.get(rule)), None)


def _fetch(config: AcceleratorConfig, o: Operands) -> Rules:
    uneven = config.weight_ports > 1 and o["beats"] % 2 == 1
    none = not (o["beats"] and o["panels"])
    return {InstructionRule.BEATS: none or uneven or o["repeat"] not in (1, 2)}


def _front(config: AcceleratorConfig, o: Operands) -> Rules:
    wide = bool(o["norm"]) and o["groups"] * GROUP > config.max_width
    return {
        InstructionRule.ROWS: not o["rows"] or o["row_first"] + o["rows"] > config.rows,
        InstructionRule.BANK: o["bank"] >= config.act_banks,
        InstructionRule.GROUPS: not 0 < o["groups"] <= config.bank_groups or wide,
    }


def _matrix(config: AcceleratorConfig, o: Operands) -> Rules:
    outputs = o["blocks"] * WEIGHT_BLOCK
    uneven = config.weight_ports > 1 and o["blocks"] % 2 == 1
    return {
        InstructionRule.ROWS: not 0 < o["rows"] <= config.rows,
        InstructionRule.BANK: o["bank"] >= config.act_banks or o["acc_bank"] >= config.acc_banks,
        InstructionRule.GROUPS: not 0 < o["groups"] <= config.bank_groups,
        InstructionRule.OUTPUTS: not GROUP <= outputs <= config.acc_depth or uneven,
    }


def _post(config: AcceleratorConfig, o: Operands) -> Rules:
    heads = o["heads"]
    layer = heads + heads // 2  # blocks of 128 columns of q, k and v
    bad_heads = not heads or heads % 2 == 1 or heads * HEAD_DIM > config.max_width
    qkv = o["op"] == PostOp.QKV
    return {
        InstructionRule.ROWS: not o["rows"] or o["row_first"] + o["rows"] > ROW_GROUP,
        InstructionRule.BANK: (
            o["acc_bank"] >= config.acc_banks or o["row_group"] >= config.row_groups
        ),
        InstructionRule.OUTPUTS: not 0 < o["blocks"] * GROUP <= config.acc_depth,
        InstructionRule.HEADS: qkv and (bad_heads or o["block_first"] + o["blocks"] > layer),
    }


def _attend(config: AcceleratorConfig, o: Operands) -> Rules:
    return {
        InstructionRule.ROWS: not o["rows"],
        InstructionRule.HEADS: not 0 < o["heads"] * HEAD_DIM <= config.max_width,
        InstructionRule.KEYS: not 0 < o["keys"] <= config.max_keys,
    }


_RULES: Mapping[Opcode, Callable[[AcceleratorConfig, Operands], Rules]] = {
    Opcode.FETCH: _fetch, Opcode.FRONT: _front, Opcode.MATRIX: _matrix, Opcode.POST: _post,
    Opcode.ATTEND: _attend,
}  # fmt: skip


def _weights(word: int) -> int:
    """Readings of panels that a FETCH brings; those that a MATRIX takes, negative."""
    opcode = get(word, _COMMON["opcode"])
    if opcode not in (Opcode.FETCH, Opcode.MATRIX):
        return 0
    o = {f.name: get(word, f) for f in PAYLOAD_FIELDS[Opcode(opcode)]}
    if opcode == Opcode.FETCH:
        return o["panels"] * o["repeat"]
    return -o["groups"] * (1 + o["dual"])


def refusal(config: AcceleratorConfig, words: Sequence[int]) -> tuple[DeviceError, int] | None:
    """Code and ERROR_INFO of the refusal of a program, None when it is not refused.

    words: the header, and what lies behind it in memory. A program that some other error ends
    before is not refused either.
    """
    rule = header_rule(config, words[0])
    if rule is not None:
        return DeviceError.BAD_HEADER, int(rule)
    length = get(words[0], next(f for f in PROGRAM_HEADER if f.name == "length"))
    credit = 0
    for index, word in enumerate(words[1 : length + 1]):
        broken = instruction_rule(config, word, index, index + 1 == length)
        credit += _weights(word)
        left = credit and get(word, _COMMON["opcode"]) == Opcode.END
        if broken is None and (left or not 0 <= credit < READINGS_AHEAD):
            broken = InstructionRule.WEIGHTS
        if broken is not None:
            return DeviceError.BAD_INSTRUCTION, index | int(broken) << 24
    return None


def misfit(config: AcceleratorConfig, words: Sequence[int]) -> tuple[DeviceError, int] | None:
    """Error and ERROR_INFO of the first panel that has more or fewer beats than MATRIX takes.

    For programs that are not refused; None when all panels fit.
    """
    bits = config.quant_config.code_bits
    brought: list[int] = []
    for index, word in enumerate(words[1:]):
        opcode = get(word, _COMMON["opcode"])
        if opcode not in (Opcode.FETCH, Opcode.MATRIX):
            continue
        o = {f.name: get(word, f) for f in PAYLOAD_FIELDS[Opcode(opcode)]}
        if opcode == Opcode.FETCH:
            brought += [o["beats"]] * (o["panels"] * o["repeat"])
            continue
        for group in range(o["groups"]):
            need = panel_beats(o["blocks"] * WEIGHT_BLOCK, bits, group == 0)
            for _ in range(1 + o["dual"]):
                beats = brought.pop(0)
                if beats != need:
                    more = beats > need
                    code = DeviceError.WEIGHTS_SURPLUS if more else DeviceError.WEIGHTS_MISSING
                    return code, index
    return None


def stray(words: Sequence[int]) -> int | None:
    """An address that a program touches and that lies in no region, None when there is none.

    words: header and instructions of a program that is not refused.
    """
    size = INSTRUCTION_BYTES
    for index, word in enumerate(words[1:]):
        touched = footprint(decode(word.to_bytes(size, "little"), index))
        pieces = [(region, int(n) * ALIGN, ALIGN) for region, lines in
                  (*touched.reads, *touched.writes) for n in lines]  # fmt: skip
        pieces += [(*split_address(where), count) for where, count in touched.model]
        for region, offset, count in pieces:
            at = BASES[region] + offset
            if not any(BASES[r] <= at and at + count <= BASES[r] + SIZES[r] for r in Region):
                return at
    return None
