# SPDX-License-Identifier: Apache-2.0
"""Generates jobs: which row of an instruction is computed next, and the address of its result."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.column_sums import SumMode
from lutvar.hw.links import BEAT_ADDRESS
from lutvar.hw.port_types import view_signal

from .orders import Path, job_layout, job_order
from .records import Kind

#: FP16 pattern of 1: k has no factor.
ONE = 0x3C00


class JobGenerator(wiring.Component):
    """Orders to jobs, one job in each cycle (a job takes two to eight cycles to compute).

    Order: blocks; in a block rows, each with one write. In a block of v and k: first v of all rows,
    then k, because records of one head follow each other in memory: one write for each.
    """

    order: In(stream.Signature(job_order()))  #: instructions (`job_order`)
    job: Out(stream.Signature(job_layout()))  #: rows to compute, in order (`job_layout`)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        order = view_signal(job_order(), reset_less=True)
        running = Signal()
        blocks = Signal(8, reset_less=True)  # left
        row_blocks = Signal(8, reset_less=True)  # left
        row = Signal(4, reset_less=True)  # number
        rows = Signal(5, reset_less=True)  # left
        heads = Signal(reset_less=True)  # a block of v and k
        final = Signal(reset_less=True)  # block
        upper = Signal(reset_less=True)
        names = ("at", "block", "keys", "values")
        at, block, keys, values = (Signal(BEAT_ADDRESS, name=n, reset_less=True) for n in names)

        job = self.job.payload
        records = order.path == Path.RECORD
        last_row = rows == 1
        end = last_row & (upper | ~heads)  # of the block
        row_beats = Signal(4)
        with m.Switch(order.path):
            with m.Case(Path.SUM, Path.COLUMNS):
                m.d.comb += row_beats.eq(8)
            with m.Case(Path.GELU, Path.NORM):
                m.d.comb += row_beats.eq(4)
            with m.Default():
                m.d.comb += row_beats.eq(2)
        m.d.comb += [
            self.job.valid.eq(running),
            job.path.eq(order.path),
            job.kind.eq(Mux(heads, Mux(upper, Kind.K, Kind.V), Kind.Q)),
            job.add.eq(order.add),
            job.vector.eq(order.vector & ~heads),
            job.shift.eq(order.shift),
            job.gate.eq(order.gate),
            # Sums begin with the first row.
            job.sums.eq(Mux(order.sums.any() & (row != 0), SumMode.ON, order.sums)),
            job.scalar.eq(Mux(records & heads, ONE, order.scalar)),
            job.row.eq(order.row_first + row),
            job.upper.eq(upper),
            job.whole.eq(~heads),
            job.release.eq(end),
            job.last.eq(end & final),
            job.request.eq(~heads | (row == 0)),
            job.single.eq((order.path != Path.GELU) & (order.path != Path.RECORD)),
            job.pairs.eq(order.path == Path.NORM),
            job.fours.eq(order.path == Path.RECORD),
            job.alone.eq((order.path == Path.NORM) | (order.path == Path.COLUMNS)),
            job.address.eq(Mux(heads, Mux(upper, keys, values), at)),
            job.beats.eq(Mux(heads, order["rows"], row_beats)),
            self.order.ready.eq(~running | (self.job.ready & job.last)),
        ]
        with m.If(running & self.job.ready):
            m.d.sync += [
                row.eq(Mux(last_row, 0, row + 1)),
                rows.eq(Mux(last_row, order["rows"], rows - 1)),
                at.eq(at + order.output_stride),
            ]
            with m.If(last_row):
                m.d.sync += upper.eq(heads & ~upper)
            with m.If(end):
                m.d.sync += [
                    blocks.eq(blocks - 1),
                    final.eq(blocks == 2),
                    block.eq(block + row_beats),
                    at.eq(block + row_beats),
                ]
                with m.If(heads):
                    m.d.sync += [
                        keys.eq(keys + order.head_stride),
                        values.eq(values + order.head_stride),
                    ]
                with m.Else():
                    m.d.sync += [row_blocks.eq(row_blocks - 1), heads.eq(row_blocks == 1)]
        with m.If(self.order.ready):
            o = self.order.payload
            m.d.sync += [
                running.eq(self.order.valid),
                order.eq(o),
                blocks.eq(o.blocks),
                final.eq(o.blocks == 1),
                row_blocks.eq(o.row_blocks),
                heads.eq(o.row_blocks == 0),
                row.eq(0),
                rows.eq(o["rows"]),
                upper.eq(0),
                at.eq(o.output),
                block.eq(o.output),
                keys.eq(o["keys"]),
                values.eq(o["values"]),
            ]
        return m
