# SPDX-License-Identifier: Apache-2.0
"""The pages about registers and instructions, written from the tables.

python -m lutvar.contract.pages docs
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from pathlib import Path

from lutvar.files import write_file

from . import isa, memory, register_map
from .column_sums import SumMode
from .isa import Opcode, OperandField, PostOp, Region, Unit
from .register_map import DeviceError, HeaderRule, InstructionRule, ReadRule

COMMAND = "python -m lutvar.contract.pages docs"
_MEMBER = re.compile(r"^    (\w+) = \w+(?:  #: (.*))?$")

_REGISTERS_HEAD = """\
The control port `s_axi_control` is AXI4-Lite with 32-bit data and 12 address bits (4096 bytes).
The table in `lutvar/contract/register_map.py` is the source of the gateware's decode, the
driver's constants, the manifest's map and this page. Programs are described in [isa.md](isa.md).

Byte strobes are obeyed. Bits without a meaning read as 0 and ignore writes. SLVERR answers an
access to an address that is not listed or not a multiple of 4 (data 0), and a write to a
read-only (RO) register. W1C: write 1 to clear.
"""

_RUNNING = """\
## Running a program

Write the program to memory, its address to PROGRAM, the bases of the regions to BASE0 to BASE3,
the first addresses after them to LIMIT0 to LIMIT3, then CTRL.start. These registers must keep their
values until the program has finished. Whatever the accelerator reads or writes, the program
included, has to lie in one window [BASEi, LIMITi); after `ap_rst_n` all four are empty. A start is
accepted when CTRL.ready is 1 and ignored otherwise. CTRL.done and ISR.done are set at the end of
the program: when every instruction is complete and every write to memory has been answered.
Reading CTRL clears CTRL.done.

INSTRUCTIONS_* start at 0 with each program. CYCLES counts while a program runs and stops
after an error; the other counters have 32 bits and wrap, so a driver takes differences. BUSY
counts cycles in which a unit executes an instruction, ACTIVE those in which it moves or computes
something: their difference is waiting.
"""

_ERRORS = """\
## Errors

ERROR keeps the first error; of several in one cycle, the lowest code. From then on nothing is
dispatched and no start is accepted. Only SOFT_RESET or `ap_rst_n` ends this.

Every transfer is checked before its first burst: a transfer is a contiguous piece that a unit
reads or writes, such as a weight panel, a row, or up to 1024 instructions. One that is not in a
window as a whole is refused, with all that follows on its port.

Beats and write responses that no burst has asked for are dropped and change nothing; UNSOLICITED
counts them. They are left over from before a reset, or the interconnect is at fault.
"""

_RESET = """\
SOFT_RESET.request stops the units, lets the memory ports end the bursts that they have begun
(STATE.resetting is 1 until then), and resets everything but the registers that can be written:
PROGRAM, BASE0 to BASE3, LIMIT0 to LIMIT3, MODE, WATCHDOG, GIE, IER and SCRATCH keep their values.
ERROR, ISR, CTRL.done and all counters but UNSOLICITED become 0; memory keeps its contents. Register
accesses that arrive during the reset itself wait a few cycles. SOFT_RESET.force does not wait for
the memory, and may leave it with half a burst.

## Interrupt

`interrupt` is a level: high while GIE is 1 and a bit is set in both ISR and IER. ISR records
events whether enabled or not; write 1 to clear. A wake-up may be early or get lost on the way to
the driver, so ISR.done decides: clear it before the start, read it after each wake-up and after
each timeout.
"""

_ISA_HEAD = """\
A program is a header word and instructions of 64 bytes, the last of them END, in memory one after
the other. The table in `lutvar/contract/isa.py` is the source of the compiler's encoder, the
gateware's decode, the disassembler and this page. The arithmetic behind the instructions is in
[arithmetic.md](arithmetic.md), the units in [architecture.md](architecture.md).

Words are little-endian: bit 0 is the lowest bit of the first byte. Bits that no field covers are
0. An address is a region (upper 2 bits) and an offset in bytes (38 bits) to its base register;
offsets and strides are multiples of 64.
"""

_ORDER = """\
## Order

Each unit executes its own instructions in program order. An instruction starts when every unit
has completed as many instructions since the start of the program as the `wait` field for that
unit says; the counts are compared modulo 2\\*\\*16. Nothing else orders the units. An instruction
that writes memory is complete when its writes have been answered.

The sequencer reads ahead, checks each instruction and gives it to its unit's queue, in program
order; a full queue holds up what follows. With MODE.serial an instruction is dispatched only when
all earlier ones but those of FETCH are complete.

FETCH comes before the MATRIX that uses its panels: in program order the readings of panels that
FETCH brings (`panels * repeat`), less those that MATRIX needs (`groups * (1 + dual + terms)`), are
never below 0, and are 0 at END. Each weight port counts for itself: FETCH brings readings on the
ports that have a share of the panel, MATRIX needs them on those that have a stripe of its outputs.
"""

_DECODER = """\
NORM and SUMS read no accumulators; `acc_bank`, `row_group`, `row_first` and `sections` have no
meaning there but keep their rules, and 0 does. NORM reads and writes `rows` rows of `blocks`
blocks; its vectors are as wide as a row. SUMS writes, from column 0 on, S1 of a column as 64 bits
with a sign and S2 as 64 bits, whatever `rows` is; it follows all POST instructions before it, so
their sums are in it. Up to 16 blocks of columns have sums, of which an instruction with `sums`
has the first `blocks`; sums that no instruction has begun are undefined. A build without
`decoder` refuses NORM, SUMS and `sums`. The arithmetic is section 14 of
[arithmetic.md](arithmetic.md#14-decoder).
"""

_SECTIONS = """\
## Sections

For tiles of few rows the array of G row groups splits into s = 1, 2 or 4 sections that hold the
same rows and work on different outputs. FRONT, MATRIX and POST of a tile name the same number. The
first row groups of the sections are 0; of two 0 and `G // 2`; of four 0, `G // 2`, `G // 4` and
`G // 2 + G // 4`, in this order. A tile has at most `16 * (G // s)` rows; FRONT writes each to
every section, POST's `row_group` counts within the section. Of the outputs of a MATRIX, in stripes
of 128, section k has those with `stripe mod s = k`, which are the columns
`128 * (stripe // s)` and up of its accumulators; so `ceil(outputs / 128 / s) * 128` columns must
fit a bank. Order and values of all sums are the same for every s.
"""

_WHAT: Mapping[Opcode, str] = {
    Opcode.FETCH: "Streams weight panels to MATRIX. It runs ahead as far as the weight FIFO holds.",
    Opcode.FRONT: (
        "Fills rows of an activation bank: read, normalise (if asked), rotate (if asked), "
        "quantize."
    ),
    Opcode.MATRIX: (
        "Multiplies an activation bank with the panels that FETCH delivers, into an "
        "accumulator bank."
    ),
    Opcode.POST: (
        "Drains up to 16 rows of an accumulator bank, applies one operation, writes the "
        "rows to memory."
    ),
    Opcode.ATTEND: (
        "Attention of the query rows of one sequence, all heads, over the keys that are "
        "named."
    ),
    Opcode.END: "The last instruction. The program has finished when all units have.",
}  # fmt: skip


def _remarks(kind: type[IntEnum]) -> dict[str, str]:
    """The `#:` comment of each member; one without has that of the member before."""
    texts: dict[str, str] = {}
    text = "no error"
    for line in inspect.getsource(kind).splitlines():
        if match := _MEMBER.match(line):
            text = match[2] or text
            texts[match[1]] = text
    if list(texts) != [member.name for member in kind]:
        raise ValueError(f"{kind.__name__}: members in the source are {list(texts)}")
    return texts


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(c) for c in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return str(value).replace("**", r"\*\*").replace("|", r"\|")


def _members(kind: type[IntEnum], head: Sequence[str] = ("code", "name", "meaning")) -> str:
    texts = _remarks(kind)
    return _table(head, ([int(m), m.name, texts[m.name]] for m in kind))


def _fields(fields: Iterable[OperandField]) -> str:
    def bits(item: OperandField) -> str:
        top = item.low + item.width - 1
        return f"{item.low}" if item.width == 1 else f"{top}:{item.low}"

    def kind(item: OperandField) -> str:
        return "signed" if item.signed else {"int": ""}.get(item.kind, item.kind)

    rows = ([bits(f), f"`{f.name}`", kind(f), f.description] for f in fields)
    return _table(("bits", "field", "kind", "meaning"), rows)


def _page(title: str, parts: Iterable[str]) -> str:
    head = f"<!-- Generated: {COMMAND} -->\n# {title}\n"
    return "\n".join([head, *parts])


def registers_page() -> str:
    """The page about registers, errors and interrupt."""
    return _page("Registers", [
        _REGISTERS_HEAD,
        register_map.as_markdown(),
        _RUNNING,
        _ERRORS,
        _members(DeviceError),
        "ERROR_INFO of READ_*:\n",
        _members(ReadRule, ("value", "rule", "what is wrong")),
        "ERROR_INFO of BAD_HEADER:\n",
        _members(HeaderRule, ("value", "rule", "what is wrong")),
        "Rules of BAD_INSTRUCTION, in the upper 8 bits of ERROR_INFO; the position of the\n"
        "instruction is in the lower 24:\n",
        _members(InstructionRule, ("value", "rule", "what is wrong")),
        _RESET,
    ])  # fmt: skip


def instructions_page() -> str:
    """The page about programs and what lies in memory."""
    assert memory.__doc__ is not None
    layout = memory.__doc__.partition("\n")[2].strip()
    parts = [
        _ISA_HEAD,
        _ORDER,
        _SECTIONS,
        "## The header word\n",
        _fields(isa.PROGRAM_HEADER),
        "## The same in every instruction\n",
        _fields(isa.HEADER_FIELDS),
        "Order of the units: " + ", ".join(f"{u.name} {int(u)}" for u in Unit) + ".\n",
    ]
    for opcode in Opcode:
        parts += [f"## {opcode.name}, opcode {int(opcode)}\n", _WHAT[opcode] + "\n"]
        if isa.PAYLOAD_FIELDS[opcode]:
            parts.append(_fields(isa.PAYLOAD_FIELDS[opcode]))
        if opcode is Opcode.POST:
            parts += ["Operations:\n", _members(PostOp, ("op", "name", "result")), _DECODER]
            parts += ["Sums:\n", _members(SumMode, ("sums", "name", "what STORE and ADD do"))]
    parts += [
        "## Regions\n", _members(Region, ("region", "name", "contents")),
        "## What lies in memory\n", layout + "\n",
    ]  # fmt: skip
    return _page("Instructions", parts)


PAGES = {"registers.md": registers_page, "isa.md": instructions_page}


def main(arguments: Sequence[str]) -> None:
    """Write both pages into a folder that exists."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise SystemExit(f"usage: {COMMAND}")
    if not Path(arguments[0]).is_dir():
        raise SystemExit(f"error: {arguments[0]}: no such folder")
    for name, make in PAGES.items():
        write_file(Path(arguments[0]) / name, make())


if __name__ == "__main__":
    main(sys.argv[1:])
