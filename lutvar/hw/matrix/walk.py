# SPDX-License-Identifier: Apache-2.0
"""Position in the activation stream of a job, and the place of each beat in a bank."""

from typing import Any

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import bits_for

from lutvar.contract.config import HardwareConfig


class RowWalk(wiring.Component):
    """Walks over the beats of a job: rows, in each row groups, in each group beats.

    A bank has one word for each (row vector, group), row vectors apart by the number of groups; row
    ``r`` is slot ``r % T`` of row vector ``r // T``. Addresses come from additions only.

    Members:
        load, rows, groups: begin at the first beat; only while not ``active``. ``rows`` counts row
            vectors.
        step: go to the next beat; only while ``active``.
        active: a position is valid.
        beat, slot, address: where the current beat belongs.
        group_end: last beat of a group.
        final: last beat of the job; a step ends the walk.

    Latency 1; one beat in each cycle; at most 5 LUT levels.
    """

    def __init__(self, hardware: HardwareConfig, beats: int) -> None:
        self.beats, self.slots = beats, hardware.token_rows
        self.rows_bits = bits_for(hardware.buffer_vectors)
        self.groups_bits = bits_for(hardware.max_groups)
        super().__init__(
            {
                "load": In(1),
                "rows": In(self.rows_bits),
                "groups": In(self.groups_bits),
                "step": In(1),
                "active": Out(1),
                "beat": Out(range(beats)),
                "slot": Out(range(self.slots)),
                "address": Out(range(hardware.buffer_vectors)),
                "group_end": Out(1),
                "final": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        pitch = Signal(self.groups_bits)  # groups in a row
        groups_left = Signal(self.groups_bits)  # in this row, after the current one
        vectors_left = Signal(self.rows_bits)  # after the current one
        base = Signal.like(self.address)  # of the current row vector
        row_end, vector_end = Signal(), Signal()
        m.d.comb += [
            self.group_end.eq(self.beat == self.beats - 1),
            row_end.eq(self.group_end & (groups_left == 0)),
            vector_end.eq(row_end & (self.slot == self.slots - 1)),
            self.final.eq(vector_end & (vectors_left == 0)),
        ]
        with m.If(self.step):
            with m.If(self.group_end):
                m.d.sync += [
                    self.beat.eq(0),
                    self.address.eq(self.address + 1),
                    groups_left.eq(groups_left - 1),
                ]
            with m.Else():
                m.d.sync += self.beat.eq(self.beat + 1)
            with m.If(row_end):
                m.d.sync += [groups_left.eq(pitch - 1), self.slot.eq(self.slot + 1)]
                with m.If(vector_end):
                    m.d.sync += [
                        self.slot.eq(0),
                        base.eq(self.address + 1),
                        vectors_left.eq(vectors_left - 1),
                    ]
                with m.Else():
                    m.d.sync += self.address.eq(base)
            with m.If(self.final):
                m.d.sync += self.active.eq(0)
        with m.If(self.load):
            m.d.sync += [
                self.active.eq(1),
                self.beat.eq(0),
                self.slot.eq(0),
                self.address.eq(0),
                base.eq(0),
                pitch.eq(self.groups),
                groups_left.eq(self.groups - 1),
                vectors_left.eq(self.rows - 1),
            ]
        return m
