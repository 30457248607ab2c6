# SPDX-License-Identifier: Apache-2.0
"""The register map: one table for gateware decode, driver constants, JSON and Markdown.

Layout follows the XRT convention for control (0x00..0x0C) and puts arguments from 0x10, so that
XRT, PYNQ and plain memory-mapped access all work.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from enum import Enum, IntEnum

MAGIC = 0x4C555456  #: "LUTV"
VERSION = 0x0001_0000  #: register map and contract version, major in the upper half
ADDRESS_BITS = 12  #: size of the control aperture, 4 KiB


class Access(Enum):
    """What the bus may do to a register."""

    RO = "read only"
    RW = "read and write"
    WO = "write only, reads as 0"
    W1C = "read, write 1 to clear"


class ErrorCode(IntEnum):
    """Values of ERROR. The first error is kept until a soft reset."""

    NONE = 0
    BAD_ARGUMENT = 1  #: ERROR_INFO: offset of the offending argument register
    FRAME_ACT = 2  #: TLAST early or missing on s_axis_act; ERROR_INFO: beats received in this job
    FRAME_WGT = 3  #: the same on s_axis_wgt
    NONFINITE = 4  #: an activation has FP16 exponent 31; ERROR_INFO: group index within the job
    STALL = 5  #: watchdog expired; ERROR_INFO: value of STATE at that moment


@dataclass(frozen=True)
class Field:
    """Bits ``low .. low+width-1`` of a register."""

    name: str
    low: int
    width: int
    description: str


@dataclass(frozen=True)
class Register:
    """One 32-bit word of the control space."""

    name: str
    offset: int
    access: Access
    description: str
    reset: int = 0
    fields: tuple[Field, ...] = field(default=())

    def field_value(self, word: int, name: str) -> int:
        """Extract a field from a word read from this register."""
        for item in self.fields:
            if item.name == name:
                return (word >> item.low) & ((1 << item.width) - 1)
        known = [f.name for f in self.fields]
        raise KeyError(f"{self.name} has no field {name!r}; fields: {known}")


_R, _A = Register, Access
REGISTERS: tuple[Register, ...] = (
    _R(
        "CTRL",
        0x00,
        _A.RW,
        "control, XRT style",
        0xC,
        (
            Field(
                "start",
                0,
                1,
                "write 1 to queue a job with the arguments below; reads 1 until accepted",
            ),
            Field("done", 1, 1, "a job has finished since the last read; cleared by reading"),
            Field("idle", 2, 1, "no job is queued or running"),
            Field("ready", 3, 1, "the next job can be queued"),
        ),
    ),
    _R(
        "GIE",
        0x04,
        _A.RW,
        "global interrupt enable",
        0,
        (Field("enable", 0, 1, "drive `interrupt`"),),
    ),
    _R(
        "IER",
        0x08,
        _A.RW,
        "interrupt enable",
        0,
        (
            Field("done", 0, 1, "interrupt when a job finishes"),
            Field("error", 1, 1, "interrupt on an error"),
        ),
    ),
    _R(
        "ISR",
        0x0C,
        _A.W1C,
        "interrupt status",
        0,
        (
            Field("done", 0, 1, "a job has finished"),
            Field("error", 1, 1, "an error was recorded"),
        ),
    ),
    _R("ROWS", 0x10, _A.RW, "token rows of the job; a multiple of T, at least T"),
    _R("GROUPS", 0x14, _A.RW, "input width / 128; rows / T * groups must fit the activation bank"),
    _R("TILES", 0x18, _A.RW, "output width / N (ignored when dumping codes)"),
    _R(
        "FLAGS",
        0x1C,
        _A.RW,
        "how to treat the activations",
        0,
        (
            Field("rotate", 0, 1, "group-wise Hadamard transform before quantizing"),
            Field("dual", 1, 1, "dual-format activations: two passes for each group"),
            Field("dump", 2, 1, "stream codes and scales out instead of multiplying"),
        ),
    ),
    _R("SCALE_EXP", 0x20, _A.RW, "exponent e of the layer, signed 8 bit, -32..31"),
    _R(
        "WATCHDOG",
        0x24,
        _A.RW,
        "cycles without progress before ERROR = STALL; 0 switches it off",
        1_000_000,
    ),
    _R("MAGIC", 0x40, _A.RO, "0x4C555456, 'LUTV'", MAGIC),
    _R("VERSION", 0x44, _A.RO, "contract and register version", VERSION),
    _R("HASH_LO", 0x48, _A.RO, "configuration hash, bits 31..0"),
    _R("HASH_HI", 0x4C, _A.RO, "configuration hash, bits 63..32"),
    _R(
        "CAPS0",
        0x50,
        _A.RO,
        "array size",
        0,
        (
            Field("token_rows", 0, 8, "T"),
            Field("outputs", 8, 8, "N"),
            Field("stream_bytes", 16, 8, "bytes in a beat"),
            Field("code_bits", 24, 8, "bits in a code"),
        ),
    ),
    _R(
        "CAPS1",
        0x54,
        _A.RO,
        "limits",
        0,
        (
            Field("max_groups", 0, 16, "largest GROUPS"),
            Field("row_block", 16, 16, "rows interleaved"),
        ),
    ),
    _R("CAPS2", 0x58, _A.RO, "activation bank size: row vectors times groups"),
    _R(
        "ERROR",
        0x60,
        _A.RO,
        "first error since reset (see error codes); the core halts until SOFT_RESET",
    ),
    _R("ERROR_INFO", 0x64, _A.RO, "context of the error"),
    _R(
        "STATE",
        0x68,
        _A.RO,
        "live state for diagnosis",
        0,
        (
            Field("act_valid", 0, 1, "s_axis_act TVALID"),
            Field("act_ready", 1, 1, "s_axis_act TREADY"),
            Field("wgt_valid", 2, 1, "s_axis_wgt TVALID"),
            Field("wgt_ready", 3, 1, "s_axis_wgt TREADY"),
            Field("out_valid", 4, 1, "m_axis_out TVALID"),
            Field("out_ready", 5, 1, "m_axis_out TREADY"),
            Field("front_busy", 8, 1, "activations of a job are being loaded"),
            Field("back_busy", 9, 1, "a job is being multiplied or dumped"),
            Field("wgt_full", 12, 2, "weight banks that are full"),
            Field("act_full", 14, 2, "activation banks that are full"),
        ),
    ),
    _R("SOFT_RESET", 0x6C, _A.WO, "write 1: abort, clear error, counters and streams"),
    _R("SCRATCH", 0x70, _A.RW, "no function; for bus tests"),
    _R("CYCLES_LO", 0x80, _A.RO, "cycles while not idle, bits 31..0"),
    _R(
        "CYCLES_HI",
        0x84,
        _A.RO,
        "cycles while not idle, bits 63..32 (latched by reading CYCLES_LO)",
    ),
    _R("BUSY", 0x88, _A.RO, "cycles in which the multiplier array was issued work"),
    _R("STALL_ACT", 0x8C, _A.RO, "back end idle, waiting for activations"),
    _R("STALL_WGT", 0x90, _A.RO, "array idle, waiting for weights"),
    _R("STALL_OUT", 0x94, _A.RO, "array idle, waiting for room in the output"),
    _R("STALL_GAP", 0x98, _A.RO, "array idle to respect the adder's latency (few rows)"),
    _R("BEATS_ACT", 0x9C, _A.RO, "beats taken from s_axis_act"),
    _R("BEATS_WGT", 0xA0, _A.RO, "beats taken from s_axis_wgt"),
    _R("BEATS_OUT", 0xA4, _A.RO, "beats given to m_axis_out"),
    _R("JOBS", 0xA8, _A.RO, "jobs finished"),
)

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
    """The table of ``docs/registers.md``."""
    lines = ["| offset | name | access | reset | meaning |", "|---|---|---|---|---|"]
    for r in REGISTERS:
        cells = (f"`0x{r.offset:02X}`", r.name, r.access.name, f"`0x{r.reset:X}`", r.description)
        lines.append(f"| {' | '.join(cells)} |")
        for f in r.fields:
            bits = f"{f.low}" if f.width == 1 else f"{f.low + f.width - 1}:{f.low}"
            lines.append(f"| | &nbsp;&nbsp;[{bits}] {f.name} | | | {f.description} |")
    return "\n".join(lines) + "\n"
