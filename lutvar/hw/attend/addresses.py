# SPDX-License-Identifier: Apache-2.0
"""Address generators: the memory transfers of an instruction, head by head."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.isa import Opcode
from lutvar.contract.memory import RECORD_BYTES
from lutvar.hw.links import payload_layout, transfer_layout
from lutvar.hw.port_types import Stream

from .head_memory import pass_layout
from .results import BEATS_A_ROW
from .scores import block_layout
from .sizes import AttentionSizes

_RESULT_BYTES = 2 * RECORD_BYTES  #: of a row and head: 64 FP16 values


def command_layout(*names: str) -> data.StructLayout:
    """Some operands of the instruction."""
    members = payload_layout(Opcode.ATTEND).members
    return data.StructLayout({name: members[name] for name in names})


def head_block_layout(sizes: AttentionSizes) -> data.StructLayout:
    """A block as `block_layout`; whether it is the first and the last one of its head."""
    return data.StructLayout({**block_layout(sizes).members, "first": 1, "last": 1})


class _AddressGenerator(wiring.Component):
    """One transfer list; `command` is taken when the one before has been handed out."""

    OPERANDS: tuple[str, ...] = ()

    command: Stream  #: in: instructions, with the operands `OPERANDS`
    request: Stream  #: out: transfers (`links.transfer_layout`)

    def __init__(self, sizes: AttentionSizes, **members: Any) -> None:
        self.sizes = sizes
        super().__init__(
            {
                "command": In(stream.Signature(command_layout(*self.OPERANDS))),
                "request": Out(stream.Signature(transfer_layout())),
                **members,
            }
        )

    def _begin(self, m: Module) -> tuple[Any, Signal]:
        """Register with the operands, and when it is loaded."""
        operands = Signal.like(self.command.payload, reset_less=True)
        load = Signal()
        m.d.comb += load.eq(self.command.valid & self.command.ready)
        with m.If(load):
            m.d.sync += operands.eq(self.command.payload)
        return operands, load


class QueryKeyAddresses(_AddressGenerator):
    """For each head and block: the block, one request for each row's q, one for the head's keys.

    The keys are requested after the first block's q only.
    """

    OPERANDS = (
        "rows", "heads", "keys", "query", "query_stride", "keys_address", "head_stride",
    )  # fmt: skip

    block: Stream  #: out: blocks, in the order of their requests

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__(sizes, block=Out(stream.Signature(head_block_layout(sizes))))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        sizes = self.sizes
        command, load = self._begin(m)
        rows = Signal.like(command.rows)  # of the head, not yet in a block
        heads = Signal.like(command.heads)  # with a block to come
        count = Signal(range(sizes.rows + 1))
        left = Signal(range(sizes.rows + 1))
        # All that changes with a block does so in SPLIT: what ends one reaches far as it is.
        first = Signal()
        last = Signal()
        final = Signal()
        over = Signal()
        head_query = Signal(64, reset_less=True)
        query = Signal(64, reset_less=True)
        keys = Signal(64, reset_less=True)
        m.d.comb += [
            self.block.payload.rows.eq(count),
            self.block.payload.keys.eq(command.keys),
            self.block.payload.first.eq(first),
            self.block.payload.last.eq(last),
        ]

        def next_block() -> None:
            """After the last request of a block."""
            m.next = "SPLIT"
            m.d.sync += first.eq(last)
            with m.If(over):
                m.next = "IDLE"

        m.d.sync += over.eq(last & (heads == 0))
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.command.ready.eq(1)
                with m.If(load):
                    payload = self.command.payload
                    m.d.sync += [
                        heads.eq(payload.heads),
                        rows.eq(payload.rows),
                        head_query.eq(payload.query),
                        keys.eq(payload.keys_address),
                        first.eq(1),
                    ]
                    m.next = "SPLIT"
            with m.State("SPLIT"):
                size = Signal(range(sizes.rows + 1))
                ends = Signal()
                m.d.comb += [
                    ends.eq(rows <= sizes.rows),
                    size.eq(Mux(ends, rows, sizes.rows)),
                ]
                m.d.sync += [
                    count.eq(size),
                    left.eq(size),
                    final.eq(size == 1),
                    rows.eq(Mux(ends, command.rows, rows - sizes.rows)),
                    last.eq(ends),
                    heads.eq(heads - ends),
                ]
                with m.If(first):
                    m.d.sync += [query.eq(head_query), head_query.eq(head_query + RECORD_BYTES)]
                m.next = "BLOCK"
            with m.State("BLOCK"):
                m.d.comb += self.block.valid.eq(1)
                with m.If(self.block.ready):
                    m.next = "QUERIES"
            with m.State("QUERIES"):
                m.d.comb += [
                    self.request.valid.eq(1),
                    self.request.payload.address.eq(query),
                    self.request.payload.beats.eq(1),
                ]
                with m.If(self.request.ready):
                    m.d.sync += [
                        query.eq(query + command.query_stride),
                        left.eq(left - 1),
                        final.eq(left == 2),
                    ]
                    with m.If(final):
                        with m.If(first):
                            m.next = "KEYS"
                        with m.Else():
                            next_block()
            with m.State("KEYS"):
                m.d.comb += [
                    self.request.valid.eq(1),
                    self.request.payload.address.eq(keys),
                    self.request.payload.beats.eq(command.keys),
                ]
                with m.If(self.request.ready):
                    m.d.sync += keys.eq(keys + command.head_stride)
                    next_block()
        return m


class ValueAddresses(_AddressGenerator):
    """For each head one request for the V records of all keys, and a pass for each block."""

    OPERANDS = ("rows", "heads", "keys", "values_address", "head_stride")

    passes: Stream  #: out: passes over the V records, as `HeadMemory` takes them

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__(sizes, passes=Out(stream.Signature(pass_layout(sizes))))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        command, load = self._begin(m)
        rows = Signal.like(command.rows)
        heads = Signal.like(command.heads)
        values = Signal(64, reset_less=True)
        # A head is offered to both sides at once, and is over when both have taken their part.
        busy = Signal()
        asked = Signal()
        last = Signal()
        m.d.comb += [
            last.eq(rows <= self.sizes.rows),
            self.command.ready.eq(~busy),
            self.request.valid.eq(busy & ~asked),
            self.request.payload.address.eq(values),
            self.request.payload.beats.eq(command.keys),
            self.passes.valid.eq(busy & (asked | ~last)),
            self.passes.payload.keys.eq(command.keys),
            self.passes.payload.last.eq(last),
        ]
        with m.If(load):
            payload = self.command.payload
            m.d.sync += [
                rows.eq(payload.rows),
                heads.eq(payload.heads),
                values.eq(payload.values_address),
                busy.eq(1),
            ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += asked.eq(1)
        with m.If(self.passes.valid & self.passes.ready):
            m.d.sync += rows.eq(rows - self.sizes.rows)
            with m.If(last):
                m.d.sync += [
                    rows.eq(command.rows),
                    heads.eq(heads - 1),
                    values.eq(values + command.head_stride),
                    asked.eq(0),
                    busy.eq(heads != 1),
                ]
        return m


class ResultAddresses(_AddressGenerator):
    """For each head and row: one request to write two beats."""

    OPERANDS = ("rows", "heads", "output", "output_stride")

    last: Signal  #: out: the request is the last of its instruction

    def __init__(self, sizes: AttentionSizes) -> None:
        super().__init__(sizes, last=Out(1))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        command, load = self._begin(m)
        rows = Signal.like(command.rows)
        heads = Signal.like(command.heads)
        head_output = Signal(64, reset_less=True)
        output = Signal(64, reset_less=True)
        busy = Signal()
        last_row = Signal()
        m.d.comb += [
            self.command.ready.eq(~busy),
            self.request.valid.eq(busy),
            self.request.payload.address.eq(output),
            self.request.payload.beats.eq(BEATS_A_ROW),
            last_row.eq(rows == 1),
            self.last.eq(last_row & (heads == 1)),
        ]
        with m.If(load):
            payload = self.command.payload
            m.d.sync += [
                rows.eq(payload.rows),
                heads.eq(payload.heads),
                head_output.eq(payload.output),
                output.eq(payload.output),
                busy.eq(1),
            ]
        with m.If(self.request.valid & self.request.ready):
            m.d.sync += [rows.eq(rows - 1), output.eq(output + command.output_stride)]
            with m.If(last_row):
                m.d.sync += [
                    rows.eq(command.rows),
                    heads.eq(heads - 1),
                    output.eq(head_output + _RESULT_BYTES),
                    head_output.eq(head_output + _RESULT_BYTES),
                    busy.eq(heads != 1),
                ]
        return m
