# SPDX-License-Identifier: Apache-2.0
"""Splits an instruction into orders to `Drain`, `OperandReader` and `JobGenerator`."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, signed
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.isa import Opcode, PostOp
from lutvar.hw.links import BEAT_ADDRESS, payload_layout
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.count import Level

from .orders import ROW_BEATS, Path, drain_order, job_order, operand_order

MAX_STARTED = 8  #: instructions started and not complete, at most


class Prepare(wiring.Component):
    """Decodes one instruction in about 10 cycles, while earlier ones are at work.

    What to drain is known at once, mostly also what to read, and goes ahead of the rest.

    An ADD or NORM whose rows overlap those that earlier instructions, not complete yet, store as
    float32 waits until they are complete: rows are read ahead of the writes before them. The
    overlap is decided by the range of addresses that all of them cover together.
    """

    command: Stream  #: in: instructions
    done: Signal  #: in: one cycle for each that is complete
    drain: Stream  #: out: order to `Drain`, one for each instruction
    operands: Stream  #: out: order to `OperandReader`, one for each instruction
    jobs: Stream  #: out: order to `JobGenerator`, one for each instruction
    busy: Signal  #: out: some instruction is started and not complete

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(stream.Signature(payload_layout(Opcode.POST))),
                "done": In(1),
                "drain": Out(stream.Signature(drain_order(config))),
                "operands": Out(stream.Signature(operand_order())),
                "jobs": Out(stream.Signature(job_order())),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        p = view_signal(payload_layout(Opcode.POST), reset_less=True)
        accept = Signal()
        level = Level(m, "started", MAX_STARTED, accept, self.done)
        started = level.value
        m.d.comb += accept.eq(self.command.valid & self.command.ready)
        m.d.sync += self.busy.eq(level.some | accept)

        def held(width: Any, name: str) -> Signal:
            return Signal(width, name=name, reset_less=True)

        qkv = p.op == PostOp.QKV
        reads = (p.op == PostOp.ADD) | (p.op == PostOp.NORM)
        ahead = held(signed(9), "ahead")  # q blocks from the first one of this instruction on
        vk_first = held(8, "vk_first")
        row_blocks = held(8, "row_blocks")
        skipped = held(8 + 18, "skipped")
        output, keys, values = (held(BEAT_ADDRESS, name) for name in ("output", "keys", "values"))
        begin = {"out": p.output[6:], "in": p.input[6:]}
        strides = {"out": p.output_stride[6:], "in": p.input_stride[6:]}
        lengths = {side: held(4 + 18 + 1, f"length_{side}") for side in begin}
        ends = {side: held(BEAT_ADDRESS, f"end_{side}") for side in begin}
        self._orders(m, p, output, keys, values, row_blocks)

        # Rows of float32 that instructions under way write.
        low, high = held(BEAT_ADDRESS, "low"), held(BEAT_ADDRESS, "high")
        some = Signal()
        above, below, lower, higher = (held(1, n) for n in ("above", "below", "lower", "higher"))
        pushed = Signal(3)
        with m.FSM() as fsm:
            with m.State("idle"):
                m.d.comb += self.command.ready.eq(level.room)
                with m.If(accept):
                    m.d.sync += p.eq(self.command.payload)
                    if self.config.decoder:
                        op = self.command.payload.op
                        m.d.sync += pushed[0].eq((op == PostOp.NORM) | (op == PostOp.SUMS))
                    m.next = "difference"
            with m.State("difference"):
                m.d.sync += ahead.eq(p.heads[1:] - p.block_first)
                for side in begin:
                    m.d.sync += lengths[side].eq((p.rows - 1)[:4] * strides[side])
                m.next = "split"
            with m.State("split"):
                m.d.sync += [
                    vk_first.eq(Mux(ahead < 0, -ahead, 0)),
                    row_blocks.eq(
                        Mux(~qkv | (ahead > p.blocks), p.blocks, Mux(ahead < 0, 0, ahead))
                    ),
                ]
                for side in begin:
                    m.d.sync += lengths[side].eq(lengths[side] + p.blocks * ROW_BEATS)
                m.next = "skip"
            with m.State("skip"):
                m.d.sync += skipped.eq(vk_first * p.head_stride[6:])
                m.next = "address"
            with m.State("address"):
                m.d.sync += [
                    output.eq(begin["out"] + Mux(qkv, p.block_first << 1, 0)),
                    keys.eq(p["keys"][6:] + skipped),
                    values.eq(p["values"][6:] + skipped),
                ]
                for side in begin:
                    m.d.sync += ends[side].eq(begin[side] + lengths[side])
                m.next = "compare"
            with m.State("compare"):
                m.d.sync += [
                    above.eq(begin["in"] >= high),
                    below.eq(ends["in"] <= low),
                    lower.eq(begin["out"] < low),
                    higher.eq(ends["out"] > high),
                ]
                m.next = "decide"
            with m.State("decide"):
                # This instruction is one of `started`.
                alone = started == 1
                with m.If(~reads | alone | ~some | above | below):
                    m.next = "push"
                    with m.If(alone):
                        m.d.sync += some.eq(0)
                    with m.If((p.op == PostOp.ADD) | (p.op == PostOp.STORE)):
                        m.d.sync += some.eq(1)
                        with m.If(alone | ~some | lower):
                            m.d.sync += low.eq(begin["out"])
                        with m.If(alone | ~some | higher):
                            m.d.sync += high.eq(ends["out"])
            with m.State("push"):
                m.d.comb += self.jobs.valid.eq(~pushed[2])
                with m.If(pushed.all()):
                    m.d.sync += pushed.eq(0)
                    m.next = "idle"
        # Nothing in the way of reading: no need to know yet where results go.
        free = ~qkv & (~reads | (started == 1) | ~some)
        m.d.comb += [
            self.drain.valid.eq(~fsm.ongoing("idle") & ~pushed[0]),
            self.operands.valid.eq(
                ((~fsm.ongoing("idle") & free) | fsm.ongoing("push")) & ~pushed[1]
            ),
        ]
        for k, port in enumerate((self.drain, self.operands, self.jobs)):
            with m.If(port.valid & port.ready):
                m.d.sync += pushed[k].eq(1)
        return m

    def _orders(
        self, m: Module, p: Any, output: Value, keys: Value, values: Value, row_blocks: Value
    ) -> None:
        drain, operands, jobs = self.drain.payload, self.operands.payload, self.jobs.payload
        paths = {PostOp.GELU: Path.GELU, PostOp.QKV: Path.RECORD}
        norm: Value = Const(0)
        columns: Value = Const(0)
        if self.config.decoder:
            paths |= {PostOp.NORM: Path.NORM, PostOp.SUMS: Path.COLUMNS}
            norm, columns = p.op == PostOp.NORM, p.op == PostOp.SUMS
            m.d.comb += [jobs.gate.eq(p.gate), jobs.sums.eq(p.sums)]
        path: Value = Const(Path.SUM)
        for op, other in paths.items():
            path = Mux(p.op == op, other, path)
        shift = p.shift & ((p.op == PostOp.GELU) | norm)
        add = (p.op == PostOp.ADD) | norm
        vector = p.vector & ~columns
        m.d.comb += [
            drain.bank.eq(p.acc_bank),
            drain.row_group.eq(p.row_group),
            drain.blocks.eq(p.blocks),
            drain.sections.eq(p.sections),
            operands.add.eq(add),
            operands.shift.eq(shift),
            operands["rows"].eq(p.rows),
            operands.blocks.eq(p.blocks),
            operands.vector_blocks.eq(
                Mux(vector, Mux(p.op == PostOp.QKV, row_blocks, p.blocks), 0)
            ),
            operands.shifts.eq(Mux(norm, p["keys"][6:], p.input[6:])),
            operands.vector.eq(p.vector_address[6:]),
            operands.input.eq(p.input[6:]),
            operands.input_stride.eq(p.input_stride[6:]),
            jobs.path.eq(path),
            jobs.add.eq(add),
            jobs.vector.eq(vector),
            jobs.shift.eq(shift),
            jobs.scalar.eq(p.scalar),
            jobs.row_first.eq(p.row_first),
            jobs["rows"].eq(Mux(columns, 1, p.rows)),
            # A block's sums are four writes of 8 beats.
            jobs.blocks.eq(Mux(columns, p.blocks << 2, p.blocks)),
            jobs.row_blocks.eq(Mux(columns, p.blocks << 2, row_blocks)),
            jobs.output.eq(output),
            jobs.output_stride.eq(p.output_stride[6:]),
            jobs["keys"].eq(keys),
            jobs["values"].eq(values),
            jobs.head_stride.eq(p.head_stride[6:]),
        ]
