# SPDX-License-Identifier: Apache-2.0
"""What the units of the accelerator say to each other: instruction payloads, memory, banks, drain.

Every unit has the ports of `UnitComponent`. Signals without a handshake are registered at
their source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amaranth.hdl import Module, Signal, Value, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import (
    BEAT_BYTES,
    LANES,
    STRIPE,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.isa import PAYLOAD_FIELDS, Opcode, Region
from lutvar.contract.sections import SECTIONS
from lutvar.contract.widths import DRAIN_VALUES, WORDS
from lutvar.hw.port_types import Stream, View, view_signal

BEAT = BEAT_BYTES * 8  #: bits of a memory beat
ADDRESS = 64  #: bits of a byte address in memory, after the base register was added
BEAT_ADDRESS = ADDRESS - 6  #: the same in beats
INDEX_BITS = 24  #: of an instruction's position in a program
WINDOWS = len(Region)  #: of memory, [BASE, LIMIT)
MAX_BURST = 16  #: beats; 1 KiB, so that a burst of an aligned kilobyte never crosses 4 KiB


def payload_layout(opcode: Opcode) -> data.StructLayout:
    """Operands of an instruction as a unit receives them.

    Address fields arrive as 64-bit byte addresses: the sequencer has added the base register.
    MATRIX is told its `index` in the program too, which its errors name.
    """
    shapes: dict[str, Any] = {}
    for item in PAYLOAD_FIELDS[opcode]:
        width = ADDRESS if item.kind == "address" else item.width
        shapes[item.name] = signed(width) if item.signed else unsigned(width)
    if opcode is Opcode.MATRIX:
        shapes["index"] = unsigned(INDEX_BITS)
    return data.StructLayout(shapes)


def sections_of(config: AcceleratorConfig) -> tuple[int, ...]:
    """The numbers of sections that a build can split into."""
    return tuple(s for s in SECTIONS if s <= config.max_sections)


def sections_bits(config: AcceleratorConfig) -> int:
    """Bits of the base-2 logarithm of a number of sections; 0 if there is never more than one."""
    return (len(sections_of(config)) - 1).bit_length()


def stripes_of(blocks: Value) -> Value:
    """Stripes of so many blocks of 32 outputs, as they are in MATRIX instructions."""
    return blocks[(STRIPE // WEIGHT_BLOCK).bit_length() - 1 :]


class UnitComponent(wiring.Component):
    """Base of the units: the ports that every unit has. Their shapes are `unit_members`."""

    #: in: instructions that may start now (their waits are over); taken one at a time, in order. A
    #: unit may take the next one before the last is complete
    command: Stream
    #: out: one cycle for each instruction that is complete: its results are where others see them,
    #: for memory after the write response
    done: Signal
    busy: Signal  #: out: an instruction is in progress
    active: Signal  #: out: an instruction moves or computes something in this cycle
    #: in: begin nothing new; finish started bursts and drop what they bring (before a reset)
    stop: Signal
    idle: Signal  #: out: nothing is outstanding on the unit's memory ports
    windows: View  #: in: see `memory_members`
    reports: View  #: out: see `memory_members`


def unit_members(opcode: Opcode) -> dict[str, Any]:
    """Signature members of a `UnitComponent`, for the instructions of one unit."""
    return {
        "command": In(stream.Signature(payload_layout(opcode))),
        "done": Out(1),
        "busy": Out(1),
        "active": Out(1),
        "stop": In(1),
        "idle": Out(1),
    }


def windows_layout() -> data.ArrayLayout:
    """The windows that transfers may touch, one for each region: base and limit in beats."""
    window = data.StructLayout({"base": BEAT_ADDRESS, "limit": BEAT_ADDRESS})
    return data.ArrayLayout(window, WINDOWS)


def near_windows(m: Module, windows: Any) -> Any:
    """The windows one cycle later, in registers of the unit: the control port may be far away.

    Without a reset, for they follow the registers that have one.
    """
    near = view_signal(windows_layout(), reset_less=True)
    m.d.sync += near.eq(windows)
    return near


def report_layout() -> data.StructLayout:
    """What a reader or writer reports; from registers.

    response, last, outside: sticky, one of them at most, with `address`: a response other than
    OKAY (start of the burst); a wrong RLAST (start of the burst); a transfer that lies in no
    window and was not begun (its start). unsolicited: one cycle for each beat or response that no
    burst had asked for.
    """
    return data.StructLayout(
        {"response": 1, "last": 1, "outside": 1, "unsolicited": 1, "address": BEAT_ADDRESS}
    )


def memory_members(masters: int) -> dict[str, Any]:
    """Signature members of a unit with so many readers and writers.

    windows: what they may touch. reports: of each, in the order of the unit's memory ports.
    """
    return {
        "windows": In(windows_layout()),
        "reports": Out(data.ArrayLayout(report_layout(), masters)),
    }


def connect_masters(m: Module, unit: Any, masters: Sequence[Any]) -> None:
    """A unit's `windows`, `reports` and `stop` to its readers and writers."""
    windows = near_windows(m, unit.windows)
    for number, master in enumerate(masters):
        m.d.comb += [
            master.windows.eq(windows),
            master.stop.eq(unit.stop),
            unit.reports[number].eq(master.report),
        ]


def axi_read() -> wiring.Signature:
    """AR and R channels of an AXI4 master, 512 bits, one ID, INCR bursts of whole beats.

    Size, burst type, cache, protection and ID are constants that the top level ties off.
    """
    return wiring.Signature(
        {
            "araddr": Out(ADDRESS), "arlen": Out(8), "arvalid": Out(1), "arready": In(1),
            "rdata": In(BEAT), "rresp": In(2), "rlast": In(1), "rvalid": In(1), "rready": Out(1),
        }
    )  # fmt: skip


def weight_layout() -> data.StructLayout:
    """A beat of a weight panel; `last` marks the last one that its port brings of a reading."""
    return data.StructLayout({"data": BEAT, "last": 1})


def weight_stream() -> wiring.Signature:
    """FETCH to MATRIX, one for each weight port: beats in order; each may stall on its own.

    A panel that is read twice (for a dual format) has a `last` beat in each reading. Beats before
    `last` are owned by one pass of one MATRIX instruction, which checks that they are as many as
    it needs.
    """
    return stream.Signature(weight_layout())


def axi_write() -> wiring.Signature:
    """AW, W and B channels of an AXI4 master, as `axi_read`."""
    return wiring.Signature(
        {
            "awaddr": Out(ADDRESS), "awlen": Out(8), "awvalid": Out(1), "awready": In(1),
            "wdata": Out(BEAT), "wstrb": Out(BEAT_BYTES), "wlast": Out(1), "wvalid": Out(1),
            "wready": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1),
        }
    )  # fmt: skip


def transfer_layout() -> data.StructLayout:
    """A request to a burst reader or writer: contiguous beats, any number from 1."""
    return data.StructLayout({"address": ADDRESS, "beats": 20})


def bank_write_layout(config: AcceleratorConfig) -> data.StructLayout:
    """FRONT to MATRIX: one word of 16 codes of one row. Never refused; no order is required.

    word: `group * 8 + k` for elements `16 k .. 16 k + 15` of a group. scales: byte `k` (of 4,
    for k < 4) of `m | m_negative << 16`, the group's scales; 0 in the words k = 4..7.
    sections: base-2 logarithm of the number that the row's tile has; each of them takes the word.
    """
    bits = config.quant_config.code_bits
    return data.StructLayout(
        {
            "valid": 1,
            "bank": range(config.act_banks),
            "row": range(config.rows),
            "word": range(config.bank_groups * WORDS),
            "codes": LANES * bits,
            "scales": 8,
            "sections": sections_bits(config),
        }
    )


def drain_layout(config: AcceleratorConfig) -> data.StructLayout:
    """POST to MATRIX: read two columns of the 16 rows of a group. One request in each cycle.

    row_group: of the array, so it names the section too. column: of that section's accumulators,
    index of the pair, `column >> 1`. The 32 float32 values (`drain_values`) are there
    `drain_latency` cycles later. Only banks whose MATRIX instruction is complete may be read.
    """
    return data.StructLayout(
        {
            "valid": 1,
            "bank": range(config.acc_banks),
            "row_group": range(max(2, config.row_groups)),
            "column": range(config.acc_depth // 2),
        }
    )


def drain_values() -> data.ArrayLayout:
    """Element `row + 16 * c` is (row, column `2 * pair + c`)."""
    return data.ArrayLayout(unsigned(32), DRAIN_VALUES)
