# SPDX-License-Identifier: Apache-2.0
"""The instruction set: one table for compiler, gateware decode, disassembler and documentation.

An instruction is one 64-byte word, little-endian. A program is a header word, then instructions in
order, the last of them `END`. Each instruction belongs to one unit; a unit executes its own in
order. Before it starts, every other unit must have completed as many instructions, counted from
the program's start modulo 2**16, as the five `wait` fields say; nothing else orders the units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

INSTRUCTION_BYTES = 64
PROGRAM_MAGIC = 0x31_52_41_56_54_55_4C  #: "LUTVAR1" as bytes in memory order
ALIGN = 64  #: every address and stride in memory is a multiple of this many bytes
MAX_INSTRUCTIONS = 1 << 24
BLOCKS_OF_STRIPE = 4  #: blocks of 32 outputs that lie on one weight port
READINGS_AHEAD = 1 << 20  #: readings of panels that FETCH may be ahead of MATRIX, and one


class Unit(IntEnum):
    """Units with an instruction queue of their own; the value indexes `wait` and `done`."""

    FETCH = 0
    FRONT = 1
    MATRIX = 2
    POST = 3
    ATTEND = 4


UNITS = tuple(Unit)


class Opcode(IntEnum):
    """Instructions 1 to 5 run on the unit of the same name; END on the sequencer."""

    FETCH = 1
    FRONT = 2
    MATRIX = 3
    POST = 4
    ATTEND = 5
    END = 6


class Region(IntEnum):
    """What an address is relative to: one base register each."""

    MODEL = 0  #: packed weights and AdaLN vectors
    WORK = 1  #: intermediate tensors
    IO = 2  #: embeddings in, logits out
    CACHE = 3  #: keys and values


class PostOp(IntEnum):
    """What POST does with float32 results `y` and the vector (or scalar) `g` of FP16."""

    STORE = 0  #: out = y * g, float32
    ADD = 1  #: out = in + y * g, float32: residual, guidance
    GELU = 2  #: out = gelu(y) * g + shift, FP16
    QKV = 3  #: records of q, k and v
    NORM = 4  #: out = in * g + shift, then SiLU with `gate`, FP16; no accumulators
    SUMS = 5  #: S1 and S2 of each column, 16 bytes; no accumulators


REGION_BITS, OFFSET_BITS = 2, 38
ADDRESS_BITS = REGION_BITS + OFFSET_BITS


@dataclass(frozen=True)
class OperandField:
    """Bits `low .. low + width - 1` of the instruction word."""

    name: str
    width: int
    description: str
    low: int = 0
    signed: bool = False
    kind: str = "int"  #: "int", "address", "float32", "float16" (patterns)


def _place(start: int, fields: Iterable[OperandField]) -> tuple[OperandField, ...]:
    placed, low = [], start
    for item in fields:
        placed.append(replace(item, low=low))
        low += item.width
    if low > INSTRUCTION_BYTES * 8:
        raise ValueError(f"fields end at bit {low}; an instruction has {INSTRUCTION_BYTES * 8}")
    return tuple(placed)


_F = OperandField


def _address(name: str, description: str) -> OperandField:
    return OperandField(name, ADDRESS_BITS, description, kind="address")


#: Bits 0..127, the same in every instruction.
HEADER_FIELDS = _place(
    0,
    [
        _F("opcode", 8, "which instruction"),
        _F("zero", 8, "0"),
        _F("index", 16, "position in the program modulo 2**16; the header is not counted"),
        *(_F(f"wait_{u.name.lower()}", 16, f"instructions that {u.name} must have completed")
          for u in UNITS),
        _F("mark", 16, "0x564C, 'LV'"),
    ],
)  # fmt: skip
MARK = 0x564C
PAYLOAD_LOW = 128

PAYLOAD_FIELDS: Mapping[Opcode, tuple[OperandField, ...]] = {
    Opcode.FETCH: _place(PAYLOAD_LOW, [
        _address("address", "first weight panel"),
        _F("beats", 20, "64-byte beats of one panel on each of the first `full` weight ports"),
        _F("full", 3, "weight ports that bring `beats` of each panel"),
        _F("rest", 20, "beats of one panel on each of the other weight ports; may be 0"),
        _F("panels", 8, "panels, one after the other in memory"),
        _F("repeat", 2, "times that each panel is read before the next: 1, or 2 for two passes"),
    ]),
    Opcode.FRONT: _place(PAYLOAD_LOW, [
        _address("address", "first row"),
        _F("stride", 24, "bytes from row to row"),
        _F("rows", 10, "rows to load"),
        _F("row_first", 10, "row of the tile that the first one becomes"),
        _F("bank", 3, "activation bank to fill"),
        _F("groups", 8, "width of a row / 128"),
        _F("norm", 1, "rows are float32 and pass LayerNorm and AdaLN; else FP16, as they are"),
        _F("rotate", 1, "group-wise Hadamard transform"),
        _F("dual", 1, "dual format"),
        _address("scale", "AdaLN scale vector, FP16, 1 already added (norm only)"),
        _address("shift", "AdaLN shift vector, FP16 (norm only)"),
        _F("inverse_width", 32, "1 / width as float32 (norm only)", kind="float32"),
        _F("epsilon", 32, "added to the variance (norm only)", kind="float32"),
        _F("sections", 2, "log2 of the sections that the array splits into"),
        _F("terms", 1, "two terms of each group, 2g and 2g + 1 of the bank; not dual"),
    ]),
    Opcode.MATRIX: _place(PAYLOAD_LOW, [
        _F("bank", 3, "activation bank to read"),
        _F("acc_bank", 3, "accumulator bank to fill"),
        _F("groups", 8, "input width / 128"),
        _F("blocks", 9, "outputs / 32, a multiple of 4"),
        _F("dual", 1, "two passes for each group, negative half first"),
        _F("exponent", 6, "SCALE_EXP e of the layer", signed=True),
        _F("rows", 10, "rows of the tile that hold data"),
        _F("more", 1, "sums go on from what the accumulators hold; biases count for nothing"),
        _F("sections", 2, "log2 of the sections that the array splits into"),
        _F("terms", 1, "two passes for each group, terms 2g and 2g + 1 of the bank; not dual"),
    ]),
    Opcode.POST: _place(PAYLOAD_LOW, [
        _F("acc_bank", 3, "accumulator bank to drain"),
        _F("row_group", 6, "which 16 rows of the tile"),
        _F("row_first", 4, "first of these rows to use"),
        _F("rows", 5, "rows to use, 1 to 16"),
        _F("blocks", 8, "columns / 128"),
        _F("op", 3, "PostOp"),
        _F("vector", 1, "g is the vector at `vector_address`; else the scalar"),
        _F("scalar", 16, "g as an FP16 pattern", kind="float16"),
        _address("output", "results of the first row used (QKV: its q records; SUMS: column 0)"),
        _F("output_stride", 24, "bytes from row to row"),
        _address("input", "rows of float32 (ADD, NORM); shift of these columns, FP16 (GELU)"),
        _F("input_stride", 24, "bytes from row to row"),
        _address("vector_address", "g of these columns, FP16 (QKV: kappa of each q column's head)"),
        _F("heads", 6, "attention heads (QKV only)"),
        _F("block_first", 8, "index of the first block of 128 columns in the layer (QKV only)"),
        _address("keys", "K record of head 0 and the first row used (QKV); shift, FP16 (NORM)"),
        _address("values", "V record of head 0 and the first row used (QKV only)"),
        _F("head_stride", 24, "bytes from one head's records to the next's (QKV only)"),
        _F("shift", 1, "a shift is added: GELU's at `input`, NORM's at `keys`; else nothing"),
        _F("sections", 2, "log2 of the sections that the array splits into"),
        _F("gate", 1, "NORM is followed by SiLU"),
        _F("sums", 2, "SumMode: sums of the columns' results (STORE and ADD; else 0)"),
    ]),
    Opcode.ATTEND: _place(PAYLOAD_LOW, [
        _F("rows", 10, "query rows, all of one sequence"),
        _F("heads", 6, "attention heads"),
        _F("keys", 12, "keys that every query sees"),
        _address("query", "q record of the first row and head 0"),
        _F("query_stride", 24, "bytes from row to row; heads follow each other"),
        _address("keys_address", "K record of head 0 and key 0"),
        _address("values_address", "V record of head 0 and key 0"),
        _F("head_stride", 24, "bytes from one head's records to the next's"),
        _address("output", "result of the first row: FP16, 64 columns a head"),
        _F("output_stride", 24, "bytes from row to row"),
    ]),
    Opcode.END: (),
}  # fmt: skip

#: The program's first word.
PROGRAM_HEADER = _place(
    0,
    [
        _F("magic", 64, "'LUTVAR1', 7 bytes"),
        _F("hash", 64, "configuration hash of the accelerator that it was compiled for"),
        _F("length", 32, "instructions, END included"),
        _F("zero", 32, "0"),
        _F("models", 64, "hash of the packed model that its addresses refer to; 0 if unknown"),
    ],
)


class ProgramError(ValueError):
    """An instruction or program that cannot be encoded, decoded or run; names field and rule."""


def address(region: Region, offset: int) -> int:
    """An address field: region and offset. Raises ProgramError unless it is 64-byte aligned."""
    if offset % ALIGN or not 0 <= offset < 1 << OFFSET_BITS:
        raise ProgramError(
            f"offset {offset:#x} in {region.name}; it must be a multiple of {ALIGN} "
            f"below 2**{OFFSET_BITS}"
        )
    return int(region) << OFFSET_BITS | offset


def split_address(value: int) -> tuple[Region, int]:
    """Region and offset of an address field."""
    return Region(value >> OFFSET_BITS), value & ((1 << OFFSET_BITS) - 1)


@dataclass(frozen=True)
class Instruction:
    """One instruction: its operands by name, and how much of each unit it waits for."""

    opcode: Opcode
    operands: Mapping[str, int] = field(default_factory=dict)
    waits: Sequence[int] = (0, 0, 0, 0, 0)  #: completed instructions by unit, counted exactly


def readings(item: Instruction, ports: int) -> tuple[int, ...]:
    """Readings of weight panels that an instruction brings (FETCH) or, negative, needs (MATRIX).

    By weight port; a port without a share of the panel has none.
    """
    o = item.operands
    if item.opcode == Opcode.FETCH:
        count = o["panels"] * o["repeat"]
        return tuple(count if p < o["full"] or o["rest"] else 0 for p in range(ports))
    if item.opcode == Opcode.MATRIX:
        stripes = o["blocks"] // BLOCKS_OF_STRIPE
        count = o["groups"] * (1 + o["dual"] + o["terms"])
        return tuple(-count if p < stripes else 0 for p in range(ports))
    return (0,) * ports


def check_readings(program: Sequence[Instruction], ports: int) -> None:
    """The rule WEIGHTS of the device. Raises ProgramError, naming the instruction that breaks it.

    In program order, FETCH brings the readings of a MATRIX instruction before it, is never
    `READINGS_AHEAD` of them ahead, and leaves none over at END; all on each weight port.
    """
    credits_ = [0] * ports
    for index, item in enumerate(program):
        where = f"instruction {index} ({item.opcode.name})"
        for port, more in enumerate(readings(item, ports)):
            credits_[port] += more
            credit = credits_[port]
            of_port = f" on weight port {port}" if ports > 1 else ""
            if credit < 0:
                raise ProgramError(
                    f"{where} needs {-more} readings of panels{of_port}; FETCH before it leaves "
                    f"{credit - more} for it"
                )
            if credit >= READINGS_AHEAD:
                raise ProgramError(
                    f"{where}: FETCH is {credit} readings of panels ahead of MATRIX{of_port}"
                )
            if item.opcode == Opcode.END and credit:
                raise ProgramError(f"{where}: {credit} readings of panels are left over{of_port}")


def _encode(word: int, item: OperandField, value: int, where: str) -> int:
    low = -(1 << item.width - 1) if item.signed else 0
    high = low + (1 << item.width)
    if not low <= value < high:
        raise ProgramError(f"{where}: {item.name} is {value}; it must be from {low} to {high - 1}")
    return word | (value & (1 << item.width) - 1) << item.low


def _decode(word: int, item: OperandField) -> int:
    value = word >> item.low & (1 << item.width) - 1
    return value - (1 << item.width) if item.signed and value >> item.width - 1 else value


def encode(instruction: Instruction, index: int) -> bytes:
    """The 64-byte word of an instruction at a position. Raises ProgramError for bad operands."""
    where = f"instruction {index} ({instruction.opcode.name})"
    fields = PAYLOAD_FIELDS[instruction.opcode]
    if set(instruction.operands) != {f.name for f in fields}:
        wrong = sorted(set(instruction.operands) ^ {f.name for f in fields})
        raise ProgramError(f"{where}: operands {wrong} are missing or unknown")
    header = {"opcode": int(instruction.opcode), "zero": 0, "index": index & 0xFFFF, "mark": MARK}
    for unit, count in zip(UNITS, instruction.waits, strict=True):
        header[f"wait_{unit.name.lower()}"] = count & 0xFFFF
    word = 0
    for item in HEADER_FIELDS:
        word = _encode(word, item, header[item.name], where)
    for item in fields:
        word = _encode(word, item, int(instruction.operands[item.name]), where)
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def decode(raw: bytes, index: int) -> Instruction:
    """The inverse of `encode`; waits are modulo 2**16. Raises ProgramError for a malformed word."""
    where = f"instruction {index}"
    if len(raw) != INSTRUCTION_BYTES:
        raise ProgramError(f"{where} has {len(raw)} bytes; it must have {INSTRUCTION_BYTES}")
    word = int.from_bytes(raw, "little")
    header = {item.name: _decode(word, item) for item in HEADER_FIELDS}
    if header["mark"] != MARK or header["zero"] or header["index"] != index & 0xFFFF:
        raise ProgramError(
            f"{where}: mark {header['mark']:#x}, index {header['index']}; not a program"
        )
    try:
        opcode = Opcode(header["opcode"])
    except ValueError:
        raise ProgramError(f"{where}: unknown opcode {header['opcode']}") from None
    fields = (*HEADER_FIELDS, *PAYLOAD_FIELDS[opcode])
    mask = sum((1 << item.width) - 1 << item.low for item in fields)
    if word & ~mask:
        raise ProgramError(f"{where} ({opcode.name}): unused bits are not 0")
    operands = {item.name: _decode(word, item) for item in PAYLOAD_FIELDS[opcode]}
    return Instruction(opcode, operands, tuple(header[f"wait_{u.name.lower()}"] for u in UNITS))


def encode_header(config_hash: int, length: int, model_hash: int = 0) -> bytes:
    """The program's first word."""
    values = {"magic": PROGRAM_MAGIC, "hash": config_hash, "length": length, "zero": 0,
              "models": model_hash}  # fmt: skip
    word = 0
    for item in PROGRAM_HEADER:
        word = _encode(word, item, values[item.name], "program header")
    return word.to_bytes(INSTRUCTION_BYTES, "little")


def as_json() -> dict[str, object]:
    """Plain data: what the configuration hash covers and the manifest carries."""

    def rows(fields: Iterable[OperandField]) -> list[object]:
        return [[f.name, f.low, f.width, f.signed, f.kind] for f in fields]

    return {
        "header": rows(HEADER_FIELDS),
        "program": rows(PROGRAM_HEADER),
        **{op.name: [int(op), rows(fields)] for op, fields in PAYLOAD_FIELDS.items()},
    }
