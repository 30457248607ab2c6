# SPDX-License-Identifier: Apache-2.0
"""Random legal programs, and programs as bytes."""

import random
from collections.abc import Sequence

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.column_sums import MAX_BLOCKS, SumMode
from lutvar.contract.identity import accelerator_hash
from lutvar.contract.isa import (
    PAYLOAD_FIELDS,
    UNITS,
    Instruction,
    Opcode,
    PostOp,
    Region,
    Unit,
    address,
    encode,
    encode_header,
    readings,
    split_address,
)
from lutvar.contract.sections import tile_rows

BASES = (0x1_0000_0000, 0x22_0000_0040, 0x333_0000_0080, 0x4444_0000_00C0)
END = Instruction(Opcode.END)


def operands(config: AcceleratorConfig, op: Opcode, rng: random.Random) -> dict[str, int]:
    """Operands at random, limits included."""

    def up_to(limit: int, low: int = 1) -> int:
        return rng.choice([low, limit, rng.randint(low, limit)])

    def where() -> int:
        return address(rng.choice(list(Region)), rng.randrange(1 << 32) * 64)

    def stride() -> int:
        return rng.randrange(1 << 18) * 64

    # Of the instructions that have this field.
    sections = rng.randrange(config.max_sections.bit_length())
    count, tile = 1 << sections, tile_rows(config, 1 << sections)
    bank = up_to(config.act_banks - 1, 0)
    groups = up_to(config.bank_groups)
    heads = 2 * up_to(config.max_width // 128)
    if op is Opcode.FETCH:
        beats, full = up_to((1 << 20) - 1), up_to(config.weight_ports)
        rest = up_to(beats - 1, 0) if full < config.weight_ports else 0
        return {"address": where(), "beats": beats, "full": full, "rest": rest,
                "panels": up_to(255), "repeat": rng.randint(1, 2)}  # fmt: skip
    if op is Opcode.FRONT:
        norm = groups <= config.max_width // 128 and rng.randint(0, 1)
        rows = up_to(tile)
        return {
            "address": where(), "stride": stride(), "rows": rows,
            "row_first": up_to(tile - rows, 0), "bank": bank,
            "groups": groups, "norm": int(norm), "rotate": rng.randint(0, 1),
            "dual": rng.randint(0, 1), "scale": where(), "shift": where(),
            "inverse_width": rng.getrandbits(32), "epsilon": rng.getrandbits(32),
            "sections": sections, "terms": 0,
        }  # fmt: skip
    if op is Opcode.MATRIX:
        blocks = 4 * up_to(min(127, count * config.acc_depth // 128))
        return {
            "bank": bank, "acc_bank": up_to(config.acc_banks - 1, 0),
            "groups": groups, "blocks": blocks,
            "dual": rng.randint(0, 1), "exponent": up_to(31, -32), "rows": up_to(tile),
            "more": rng.randint(0, 1), "sections": sections, "terms": 0,
        }  # fmt: skip
    if op is Opcode.POST:
        rows = up_to(16)
        blocks = up_to(min(255, count * config.acc_depth // 128, heads + heads // 2))
        kind = rng.choice([op for op in PostOp if op <= PostOp.QKV or config.decoder])
        sums = int(rng.choice(list(SumMode)))
        if kind not in (PostOp.STORE, PostOp.ADD) or not config.decoder:
            sums = 0
        if sums or kind is PostOp.SUMS:
            blocks = min(blocks, MAX_BLOCKS)
        return {
            "acc_bank": up_to(config.acc_banks - 1, 0),
            "row_group": up_to(config.row_groups // count - 1, 0),
            "row_first": up_to(16 - rows, 0), "rows": rows, "blocks": blocks,
            "op": int(kind), "vector": rng.randint(0, 1),
            "scalar": rng.getrandbits(16), "output": where(), "output_stride": stride(),
            "input": where(), "input_stride": stride(), "vector_address": where(),
            "heads": heads, "block_first": up_to(heads + heads // 2 - blocks, 0),
            "keys": where(), "values": where(), "head_stride": stride(),
            "sections": sections, "shift": rng.randint(0, 1),
            "gate": rng.randint(0, 1), "sums": sums,
        }  # fmt: skip
    if op is Opcode.ATTEND:
        return {
            "rows": up_to(1023), "heads": heads, "keys": up_to(config.max_keys),
            "query": where(), "query_stride": stride(), "keys_address": where(),
            "values_address": where(), "head_stride": stride(), "output": where(),
            "output_stride": stride(),
        }  # fmt: skip
    return {}


def random_program(config: AcceleratorConfig, length: int, seed: int) -> list[Instruction]:
    """A program that ends: an instruction waits only for others before it.

    MATRIX has the readings of panels that it needs; what is left over in the end goes to more of
    them, so there are `length` instructions or more. All weight ports have a share of each panel.
    """
    rng = random.Random(seed)
    counts = [0] * len(UNITS)
    program: list[Instruction] = []
    credit = 0

    def add(op: Opcode, changes: dict[str, int]) -> None:
        nonlocal credit
        waits = [rng.choice([0, max(0, n - rng.randint(0, 4)), n]) for n in counts]
        values = operands(config, op, rng) | changes
        if op is Opcode.FETCH and values["full"] < config.weight_ports:
            values["beats"] = max(values["beats"], 2)
            values["rest"] = max(values["rest"], 1)
        if op is Opcode.MATRIX:
            values["blocks"] = max(values["blocks"], 4 * config.weight_ports)
        program.append(Instruction(op, values, tuple(waits)))
        counts[int(Unit[op.name])] += 1
        credit += readings(program[-1], 1)[0]

    for _ in range(length - 1):
        op = Opcode[rng.choice(UNITS).name]
        if op is Opcode.MATRIX and credit:
            add(op, _needs(config, credit, rng))
        elif op in (Opcode.FETCH, Opcode.MATRIX):
            add(Opcode.FETCH, {"panels": rng.choice([1, 2, config.bank_groups, 11])})
        else:
            add(op, {})
    while credit:
        add(Opcode.MATRIX, _needs(config, credit, rng))
    return [*program, END]


def _needs(config: AcceleratorConfig, credit: int, rng: random.Random) -> dict[str, int]:
    """Groups, dual and terms of a MATRIX that needs no more than so many readings."""
    twice, dual = rng.randint(0, 1) if credit > 1 else 0, rng.randint(0, 1)
    terms = twice & ~dual & 1
    most = min(config.bank_groups >> terms, credit >> twice)
    return {"groups": rng.choice([1, most, most]), "dual": twice & dual, "terms": terms}


def paired(
    program: Sequence[Instruction], fetch: Instruction, matrix: Instruction
) -> list[Instruction]:
    """A program with its weights in order: `fetch` before a MATRIX that has none, `matrix` for
    those left at END. Every FETCH brings as many readings as every MATRIX needs. Waits stay.
    """
    result: list[Instruction] = []
    ahead = 0
    for item in program:
        if item.opcode is Opcode.MATRIX and not ahead:
            result.append(fetch)
            ahead = 1
        if item.opcode is Opcode.END:
            result += ahead * [matrix]
        result.append(item)
        ahead += (item.opcode is Opcode.FETCH) - (item.opcode is Opcode.MATRIX)
    return result


def program_bytes(config: AcceleratorConfig, program: Sequence[Instruction]) -> bytes:
    words = [encode(instruction, i) for i, instruction in enumerate(program)]
    return encode_header(accelerator_hash(config), len(program)) + b"".join(words)


def resolved(instruction: Instruction) -> dict[str, int]:
    """Operands as a unit must get them."""
    result = dict(instruction.operands)
    for item in PAYLOAD_FIELDS[instruction.opcode]:
        if item.kind == "address":
            region, offset = split_address(result[item.name])
            result[item.name] = BASES[region] + offset
    return result
