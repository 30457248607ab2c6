# SPDX-License-Identifier: Apache-2.0
"""The register map of the whole accelerator, error codes and the rules of its instructions.

Layout follows the XRT convention for control (0x00..0x0C), arguments from 0x10.
"""

from __future__ import annotations

from dataclasses import asdict
from enum import IntEnum

from .isa import UNITS
from .register_types import ADDRESS_BITS, MAGIC, Access, Field, Register

__all__ = [
    "ADDRESS_BITS", "ARITHMETIC_VERSION", "BY_NAME", "MAGIC", "READ_PORTS", "REGISTERS", "VERSION",
    "WEIGHT_PORTS",
    "WRITE_PORTS", "DeviceError", "HeaderRule", "InstructionRule", "ReadRule", "as_json",
    "as_markdown", "read_ports",
]  # fmt: skip

#: The last version that changed a result: what was measured with it holds for later ones.
ARITHMETIC_VERSION = 0x0002_0001
VERSION = 0x0005_0000  #: register map and contract version, major in the upper half
#: Memory ports with an AR and R channel, and those with AW, W and B. Names as in `m_axi_<name>`.
#: The register map has all of them; bits and counters of weight ports that a build lacks read 0.
READ_PORTS = ("prog", "wgt", "front", "post", "keys", "values", "wgt1", "wgt2", "wgt3")
WRITE_PORTS = ("post", "values")
#: The ports that bring weights, in order.
WEIGHT_PORTS = ("wgt", "wgt1", "wgt2", "wgt3")


def read_ports(weight_ports: int) -> tuple[str, ...]:
    """Read ports of a build with so many weight ports."""
    return tuple(p for p in READ_PORTS if p not in WEIGHT_PORTS[weight_ports:])


class DeviceError(IntEnum):
    """Values of ERROR. The first error is kept until a soft reset; nothing is dispatched then."""

    NONE = 0
    BAD_HEADER = 1  #: ERROR_INFO: HeaderRule
    BAD_INSTRUCTION = 2  #: ERROR_INFO: index of the instruction | InstructionRule << 24
    WATCHDOG = 3  #: no progress; ERROR_INFO: STATE at that moment
    WEIGHTS_SURPLUS = 4  #: beats of weights beyond an instruction's; ERROR_INFO: MATRIX's index
    WEIGHTS_MISSING = 5  #: fewer beats of weights than it needs; ERROR_INFO: MATRIX's index
    READ_PROG = 16  #: a bad read response; ERROR_INFO: ReadRule; ERROR_ADDRESS: start of the burst
    READ_WGT = 17
    READ_FRONT = 18
    READ_POST = 19
    READ_KEYS = 20
    READ_VALUES = 21
    READ_WGT1 = 22
    READ_WGT2 = 23
    READ_WGT3 = 24
    WRITE_POST = 28  #: a write response was not OKAY; ERROR_ADDRESS: start of the burst
    WRITE_VALUES = 29
    OUTSIDE_PROG = 32  #: a transfer in no window; ERROR_INFO: 1: a write; ERROR_ADDRESS: its start
    OUTSIDE_WGT = 33
    OUTSIDE_FRONT = 34
    OUTSIDE_POST = 35
    OUTSIDE_KEYS = 36
    OUTSIDE_VALUES = 37
    OUTSIDE_WGT1 = 38
    OUTSIDE_WGT2 = 39
    OUTSIDE_WGT3 = 40


class ReadRule(IntEnum):
    """What was wrong with a read's response."""

    RESPONSE = 0  #: RRESP was not OKAY
    LAST = 1  #: RLAST came before the burst's last beat, or not with it


class HeaderRule(IntEnum):
    """What is wrong with the program's first word; the lowest value is reported."""

    MAGIC = 1  #: not a program
    HASH = 2  #: compiled for another accelerator
    LENGTH = 3  #: no instructions, or too many
    ZERO = 4  #: unused bits are not 0


class InstructionRule(IntEnum):
    """What is wrong with an instruction; the lowest value is reported."""

    MARK = 1  #: mark, or bits that are always 0
    INDEX = 2  #: not the position in the program
    OPCODE = 3  #: unknown
    UNUSED = 4  #: bits that the opcode does not use are not 0
    END = 5  #: END is not the last instruction, or the last one is not END
    ALIGNMENT = 6  #: an address or stride is not a multiple of 64
    SECTIONS = 7  #: more than the array splits into
    ROWS = 8  #: none, or more than the tile (in that many sections), row group or bank has
    BANK = 9  #: no such activation or accumulator bank, or row group of the tile
    GROUPS = 10  #: none, or more (terms of them) than a bank (with norm: than max_width) holds
    OUTPUTS = 11  #: none, not a multiple of 128 (MATRIX), or more than a bank of each section holds
    DUAL = 12  #: the accelerator has no dual format
    TERMS = 13  #: two terms, and the accelerator has one only or the format is dual
    OPERATION = 14  #: no such op or sums, one that the build lacks, or sums of 17 blocks or more
    HEADS = 15  #: none, odd (QKV), more than max_width holds, or blocks beyond the layer's
    KEYS = 16  #: none, or more than max_keys
    BEATS = 17  #: no beats or panels, ports or shares that do not add up, or repeat not 1 or 2
    WEIGHTS = 18  #: MATRIX before FETCH has its panels, panels left at END, or 2**20 ahead


_R, _A = Register, Access


def _pairs(start: int, rows: list[tuple[str, str]], access: Access) -> list[Register]:
    """Registers of 64 bits as two words each."""
    registers = []
    for i, (name, text) in enumerate(rows):
        registers.append(_R(f"{name}_LO", start + 8 * i, access, f"{text}, bits 31..0"))
        registers.append(_R(f"{name}_HI", start + 8 * i + 4, access, f"{text}, bits 63..32"))
    return registers


def _each(start: int, names: list[tuple[str, str]]) -> list[Register]:
    return [_R(name, start + 4 * i, _A.RO, text) for i, (name, text) in enumerate(names)]


def _bits(low: int, width: int, names: list[tuple[str, str]]) -> list[Field]:
    return [Field(name, low + width * i, width, text) for i, (name, text) in enumerate(names)]


_UNITS = [u.name for u in UNITS]
_STATE = (
    *_bits(0, 1, [(f"busy_{u.lower()}", f"{u} executes an instruction") for u in _UNITS]),
    *_bits(5, 1, [(f"active_{u.lower()}", f"{u} moves or computes something") for u in _UNITS]),
    *_bits(10, 1, [(f"empty_{u.lower()}", f"no instruction waits for {u}") for u in _UNITS]),
    *_bits(15, 1, [(f"waits_{u.lower()}", f"{u}'s next instruction waits for other units")
                   for u in _UNITS]),
    *_bits(20, 1, [(f"incomplete_{u.lower()}", f"{u} has instructions that are not complete")
                   for u in _UNITS]),
    Field("dispatch", 25, 1, "the next instruction of the program is here and not dispatched"),
    Field("end", 26, 1, "END is reached and waits for the units"),
    Field("quiet", 27, 1, "no memory port has anything outstanding"),
    Field("resetting", 28, 1, "a soft reset waits for the memory ports"),
    Field("halted", 29, 1, "an error is kept"),
    Field("settling", 30, 1, "answers to bursts from before a reset may still come"),
)  # fmt: skip
_READS = tuple(
    f for i, p in enumerate(READ_PORTS) for f in _bits(3 * i, 1, [
        (f"{p}_arvalid", f"m_axi_{p} ARVALID"), (f"{p}_arready", f"m_axi_{p} ARREADY"),
        (f"{p}_rvalid", f"m_axi_{p} RVALID"),
    ])
)  # fmt: skip
_WRITES = tuple(
    f for i, p in enumerate(WRITE_PORTS) for f in _bits(5 * i, 1, [
        (f"{p}_awvalid", f"m_axi_{p} AWVALID"), (f"{p}_awready", f"m_axi_{p} AWREADY"),
        (f"{p}_wvalid", f"m_axi_{p} WVALID"), (f"{p}_wready", f"m_axi_{p} WREADY"),
        (f"{p}_bvalid", f"m_axi_{p} BVALID"),
    ])
)  # fmt: skip

REGISTERS: tuple[Register, ...] = (
    _R("CTRL", 0x00, _A.RW, "control, XRT style", 0x4, (
        Field("start", 0, 1, "write 1 to run the program; reads 1 until it is accepted"),
        Field("done", 1, 1, "a program has finished since the last read; cleared by reading"),
        Field("idle", 2, 1, "no program runs"),
        Field("ready", 3, 1, "a start would be accepted: idle, no error kept, not STATE.settling"),
    )),
    _R("GIE", 0x04, _A.RW, "global interrupt enable", 0, (
        Field("enable", 0, 1, "drive `interrupt`"),
    )),
    _R("IER", 0x08, _A.RW, "interrupt enable", 0, (
        Field("done", 0, 1, "interrupt when a program finishes"),
        Field("error", 1, 1, "interrupt on an error"),
    )),
    _R("ISR", 0x0C, _A.W1C, "interrupt status", 0, (
        Field("done", 0, 1, "a program has finished"),
        Field("error", 1, 1, "an error was recorded"),
    )),
    *_pairs(0x10, [
        ("PROGRAM", "address of the program, a multiple of 64"),
        ("BASE0", "base of region MODEL, a multiple of 64"),
        ("BASE1", "base of region WORK, a multiple of 64"),
        ("BASE2", "base of region IO, a multiple of 64"),
        ("BASE3", "base of region CACHE, a multiple of 64"),
    ], _A.RW),
    _R("MODE", 0x38, _A.RW, "how to run", 0, (
        Field("serial", 0, 1,
              "an instruction starts when all earlier ones but FETCH's are complete"),
    )),
    _R("WATCHDOG", 0x3C, _A.RW,
       "cycles without any progress before ERROR = WATCHDOG; 0 switches it off", 1 << 24),
    _R("MAGIC", 0x40, _A.RO, "0x4C555456, 'LUTV'", MAGIC),
    _R("VERSION", 0x44, _A.RO, "contract and register version", VERSION),
    _R("HASH_LO", 0x48, _A.RO, "configuration hash, bits 31..0"),
    _R("HASH_HI", 0x4C, _A.RO, "configuration hash, bits 63..32"),
    _R("CAPS0", 0x50, _A.RO, "array size", 0, (
        Field("rows", 0, 10, "token rows in parallel"),
        Field("code_bits", 10, 4, "bits of a weight or activation code"),
        Field("kv_bits", 14, 4, "bits of a code of q, k and v"),
        Field("act_banks", 18, 4, "banks of activation codes"),
        Field("acc_banks", 22, 4, "banks of accumulators"),
        Field("attention_rows", 26, 6, "query rows that share a pass over the keys"),
    )),
    _R("CAPS1", 0x54, _A.RO, "limits", 0, (
        Field("bank_groups", 0, 8, "groups of 128 in an activation bank"),
        Field("acc_depth", 8, 14, "outputs in an accumulator bank"),
        Field("queue", 22, 7, "instructions that wait at each unit"),
    )),
    _R("CAPS2", 0x58, _A.RO, "limits", 0, (
        Field("max_width", 0, 12, "largest model width"),
        Field("max_keys", 12, 12, "largest number of keys"),
        Field("weight_ports", 24, 3, "memory ports that weights come through"),
        Field("max_sections", 27, 3, "sections that the array can split into"),
    )),
    _R("ERROR", 0x60, _A.RO,
       "first error since reset (see error codes); nothing starts until SOFT_RESET"),
    _R("ERROR_INFO", 0x64, _A.RO, "context of the error"),
    *_pairs(0x68, [("ERROR_ADDRESS", "start of the burst or transfer that failed")], _A.RO),
    _R("STATE", 0x70, _A.RO, "live state of the units", 0, _STATE),
    _R("PORTS", 0x74, _A.RO, "live state of the memory ports that read", 0, _READS),
    _R("SOFT_RESET", 0x78, _A.WO, "abort and clear errors, counters and units", 0, (
        Field("request", 0, 1,
              "end what the memory ports have begun, then reset; STATE.resetting until then"),
        Field("force", 1, 1,
              "reset at once, then STATE.settling; only for a memory that no longer answers"),
    )),
    _R("SCRATCH", 0x7C, _A.RW, "no function; for bus tests"),
    _R("CYCLES_LO", 0x80, _A.RO, "cycles while a program runs, bits 31..0"),
    _R("CYCLES_HI", 0x84, _A.RO,
       "cycles while a program runs, bits 63..32 (latched by reading CYCLES_LO)"),
    *_each(0x88, [
        *((f"BUSY_{u}", f"cycles in which {u} executes an instruction") for u in _UNITS),
        *((f"ACTIVE_{u}", f"cycles in which {u} moves or computes something") for u in _UNITS),
        *((f"INSTRUCTIONS_{u}", f"instructions of the program that {u} has completed")
          for u in _UNITS),
        ("MATRIX_ISSUE", "cycles in which the array multiplies"),
        ("MATRIX_WAIT_WEIGHTS", "cycles in which the array waits for weights alone"),
        *((f"READ_BEATS_{p.upper()}", f"beats read through m_axi_{p}") for p in READ_PORTS),
        *((f"WRITE_BEATS_{p.upper()}", f"beats written through m_axi_{p}") for p in WRITE_PORTS),
        ("PROGRAMS", "programs finished"),
    ]),
    *_pairs(0x100, [
        ("LIMIT0", "first address after region MODEL, a multiple of 64"),
        ("LIMIT1", "first address after region WORK, a multiple of 64"),
        ("LIMIT2", "first address after region IO, a multiple of 64"),
        ("LIMIT3", "first address after region CACHE, a multiple of 64"),
    ], _A.RW),
    _R("UNSOLICITED", 0x120, _A.RO,
       "beats and write responses that no burst had asked for, dropped, since ap_rst_n"),
    _R("PORTS_WRITE", 0x124, _A.RO, "live state of the memory ports that write", 0, _WRITES),
)  # fmt: skip

BY_NAME: dict[str, Register] = {r.name: r for r in REGISTERS}


def as_json() -> list[dict[str, object]]:
    """Plain data: what the manifest carries and the configuration hash covers."""
    rows = []
    for register in REGISTERS:
        row = asdict(register)
        row["access"] = register.access.name
        rows.append(row)
    return rows


def as_markdown() -> str:
    """The table of the registers' page."""
    lines = ["| offset | name | access | reset | meaning |", "|---|---|---|---|---|"]
    for r in REGISTERS:
        cells = (f"`0x{r.offset:02X}`", r.name, r.access.name, f"`0x{r.reset:X}`", r.description)
        lines.append(f"| {' | '.join(cells)} |")
        for f in r.fields:
            bits = f"{f.low}" if f.width == 1 else f"{f.low + f.width - 1}:{f.low}"
            lines.append(f"| | &nbsp;&nbsp;[{bits}] {f.name} | | | {f.description} |")
    return "\n".join(lines) + "\n"
