# SPDX-License-Identifier: Apache-2.0
"""What the sequencer must say to a program: its rules again, in Python.

Written from `docs/isa.md` and the rules' descriptions, not from the gateware, so that the two
check each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from lutvar.contract.accelerator import (
    HEAD_DIM,
    ROW_GROUP,
    STRIPE,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.column_sums import MAX_BLOCKS, SumMode
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
from lutvar.contract.memory import panel_shares, port_beats
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
        broken[InstructionRule.TERMS] = bool(
            operands.get("terms") and (config.input_terms < 2 or operands["dual"])
        )
        if opcode in _RULES:
            broken |= _RULES[opcode](config, operands)
    return next((rule for rule in InstructionRule if broken.get(rule)), None)


def _fetch(config: AcceleratorConfig, o: Operands) -> Rules:
    none = not (o["beats"] and o["panels"])
    all_full = o["full"] == config.weight_ports
    wrong = not 0 < o["full"] <= config.weight_ports or o["rest"] >= o["beats"]
    wrong |= all_full and o["rest"] != 0
    return {InstructionRule.BEATS: none or wrong or o["repeat"] not in (1, 2)}


def _sections(config: AcceleratorConfig, o: Operands) -> tuple[bool, int, int]:
    """Whether the sections are too many; row groups and sections otherwise."""
    sections = 1 << o["sections"]
    if sections > config.max_sections:
        return True, 0, 1
    return False, config.row_groups // sections, sections


def _front(config: AcceleratorConfig, o: Operands) -> Rules:
    wide = bool(o["norm"]) and o["groups"] * GROUP > config.max_width
    many, groups, _ = _sections(config, o)
    return {
        InstructionRule.SECTIONS: many,
        InstructionRule.ROWS: not o["rows"] or o["row_first"] + o["rows"] > groups * ROW_GROUP,
        InstructionRule.BANK: o["bank"] >= config.act_banks,
        InstructionRule.GROUPS: _overfull(config, o) or wide,
    }


def _matrix(config: AcceleratorConfig, o: Operands) -> Rules:
    many, groups, sections = _sections(config, o)
    stripes, over = divmod(o["blocks"] * WEIGHT_BLOCK, STRIPE)
    return {
        InstructionRule.SECTIONS: many,
        InstructionRule.ROWS: not 0 < o["rows"] <= groups * ROW_GROUP,
        InstructionRule.BANK: o["bank"] >= config.act_banks or o["acc_bank"] >= config.acc_banks,
        InstructionRule.GROUPS: _overfull(config, o),
        InstructionRule.OUTPUTS: over != 0 or _unfit(config, stripes, sections),
    }


def _overfull(config: AcceleratorConfig, o: Operands) -> bool:
    """No groups, or more than a bank holds, each with its terms."""
    return not 0 < o["groups"] * (1 + o["terms"]) <= config.bank_groups


def _unfit(config: AcceleratorConfig, stripes: int, sections: int) -> bool:
    """No outputs, or more in a section than a bank holds."""
    return not 0 < -(-stripes // sections) * STRIPE <= config.acc_depth


def _post(config: AcceleratorConfig, o: Operands) -> Rules:
    heads = o["heads"]
    layer = heads + heads // 2  # blocks of 128 columns of q, k and v
    bad_heads = not heads or heads % 2 == 1 or heads * HEAD_DIM > config.max_width
    qkv = o["op"] == PostOp.QKV
    kept = o["op"] == PostOp.SUMS or o["sums"] != 0
    unknown = o["op"] not in list(PostOp) or o["sums"] not in list(SumMode)
    absent = not config.decoder and (kept or o["op"] == PostOp.NORM)
    wrong = o["sums"] != 0 and o["op"] not in (PostOp.STORE, PostOp.ADD)
    many, groups, sections = _sections(config, o)
    return {
        InstructionRule.SECTIONS: many,
        InstructionRule.ROWS: not o["rows"] or o["row_first"] + o["rows"] > ROW_GROUP,
        InstructionRule.BANK: o["acc_bank"] >= config.acc_banks or o["row_group"] >= groups,
        InstructionRule.OUTPUTS: _unfit(config, o["blocks"], sections),
        InstructionRule.OPERATION: (
            unknown or absent or wrong or (kept and o["blocks"] > MAX_BLOCKS)
        ),
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


def _weights(word: int, ports: int) -> list[int]:
    """Readings of panels that a FETCH brings on each port; those that a MATRIX takes, negative."""
    opcode = get(word, _COMMON["opcode"])
    if opcode not in (Opcode.FETCH, Opcode.MATRIX):
        return [0] * ports
    o = {f.name: get(word, f) for f in PAYLOAD_FIELDS[Opcode(opcode)]}
    if opcode == Opcode.FETCH:
        shares = port_beats(o["beats"], o["full"], o["rest"], ports)
        return [o["panels"] * o["repeat"] * (share > 0) for share in shares]
    stripes = o["blocks"] * WEIGHT_BLOCK // STRIPE
    return [-o["groups"] * (1 + o["dual"] + o["terms"]) * (port < stripes) for port in range(ports)]


def refusal(config: AcceleratorConfig, words: Sequence[int]) -> tuple[DeviceError, int] | None:
    """Code and ERROR_INFO of the refusal of a program, None when it is not refused.

    words: the header, and what lies behind it in memory. A program that some other error ends
    before is not refused either.
    """
    rule = header_rule(config, words[0])
    if rule is not None:
        return DeviceError.BAD_HEADER, int(rule)
    length = get(words[0], next(f for f in PROGRAM_HEADER if f.name == "length"))
    credit = [0] * config.weight_ports
    for index, word in enumerate(words[1 : length + 1]):
        broken = instruction_rule(config, word, index, index + 1 == length)
        if broken is None:
            credit = [a + b for a, b in zip(credit, _weights(word, len(credit)), strict=True)]
            end = get(word, _COMMON["opcode"]) == Opcode.END
            if not all(0 <= n < (1 if end else READINGS_AHEAD) for n in credit):
                broken = InstructionRule.WEIGHTS
        if broken is not None:
            return DeviceError.BAD_INSTRUCTION, index | int(broken) << 24
    return None


def misfit(config: AcceleratorConfig, words: Sequence[int]) -> tuple[DeviceError, int] | None:
    """Error and ERROR_INFO of the first panel that has more or fewer beats than MATRIX takes.

    For programs that are not refused; None when all panels fit.
    """
    bits, ports = config.quant_config.code_bits, config.weight_ports
    brought: list[list[int]] = [[] for _ in range(ports)]
    for index, word in enumerate(words[1:]):
        opcode = get(word, _COMMON["opcode"])
        if opcode not in (Opcode.FETCH, Opcode.MATRIX):
            continue
        o = {f.name: get(word, f) for f in PAYLOAD_FIELDS[Opcode(opcode)]}
        if opcode == Opcode.FETCH:
            shares = port_beats(o["beats"], o["full"], o["rest"], ports)
            for queue, share in zip(brought, shares, strict=True):
                queue += [share] * (o["panels"] * o["repeat"] * (share > 0))
            continue
        for group in range(o["groups"]):
            fit = panel_shares(o["blocks"] * WEIGHT_BLOCK, bits, group == 0, ports)
            shares = port_beats(fit.beats, fit.full, fit.rest, ports)
            for _ in range(1 + o["dual"] + o["terms"]):
                for queue, need in zip(brought, shares, strict=True):
                    beats = queue.pop(0) if need else 0
                    if beats != need:
                        more = beats > need
                        code = DeviceError.WEIGHTS_SURPLUS if more else DeviceError.WEIGHTS_MISSING
                        return code, index
    return None


def stray(config: AcceleratorConfig, words: Sequence[int]) -> int | None:
    """An address that a program touches and that lies in no region, None when there is none.

    words: header and instructions of a program that is not refused.
    """
    size = INSTRUCTION_BYTES
    for index, word in enumerate(words[1:]):
        touched = footprint(decode(word.to_bytes(size, "little"), index), config)
        pieces = [(region, int(n) * ALIGN, ALIGN) for region, lines in
                  (*touched.reads, *touched.writes) for n in lines]  # fmt: skip
        pieces += [(*split_address(where), count) for where, count in touched.model]
        for region, offset, count in pieces:
            at = BASES[region] + offset
            if not any(BASES[r] <= at and at + count <= BASES[r] + SIZES[r] for r in Region):
                return at
    return None
