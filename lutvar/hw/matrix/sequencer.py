# SPDX-License-Identifier: Apache-2.0
"""The loops of the back end: which word meets which weights in which cycle."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.config import HardwareConfig

from .job import bank_layout
from .weights import BANKS


def issue_layout(hardware: HardwareConfig) -> data.StructLayout:
    """What one issue carries to the array besides its operands.

    ``slot``: accumulator. ``first``, ``last``: first and last addition of a result. ``final``: the
    last result of the job. ``dual``, ``neg``: format of the codes, and the pass.
    """
    return data.StructLayout(
        {
            "slot": (hardware.row_block - 1).bit_length(),
            "first": 1,
            "last": 1,
            "final": 1,
            "dual": 1,
            "neg": 1,
            "scale_exp": signed(8),
        }
    )


class Sequencer(wiring.Component):
    """Issues one (row vector, group, pass, tile) in each cycle, in the order of the contract.

    For each tile, for each block of row vectors, for each group, for each pass: the vectors of the
    block. Every result is the sum over the groups of one slot, so a slot comes back after one
    *round* through the block, which must take at least ``interval`` cycles.

    Args:
        interval: least distance of two additions to the same slot, at most ``row_block``.

    Members:
        job: banks in order, held until the last issue of the job; those with ``dump`` are left to
            others.
        weights_ready: weight banks that hold a tile; used in turn, bank 0 first.
        room: the result of one more row vector has a place; ``reserve`` takes it.
        halt: issue nothing.
        bank: activation bank of ``job``.
        valid, issue, act_bank, act_addr, wgt_bank, wgt_group: the issue, from registers.
        release_act, release_wgt: the bank was read for the last time, together with ``valid``.
        stall_wgt, stall_gap, stall_out: why nothing is issued in this cycle, at most one.
        issued: something is issued in this cycle. ``valid`` follows in the next.
        running: a job is being multiplied.

    Throughput: one issue in each cycle; two idle cycles between jobs. At most 6 LUT levels.
    """

    def __init__(self, hardware: HardwareConfig, interval: int) -> None:
        if not 1 <= interval <= hardware.row_block:
            raise ValueError(
                f"interval is {interval}, row_block {hardware.row_block}: full blocks must hide "
                "the adder's latency, so row_block must not be smaller"
            )
        self.hardware, self.interval = hardware, interval
        super().__init__(
            {
                "job": In(stream.Signature(bank_layout(hardware))),
                "bank": In(1),
                "weights_ready": In(BANKS),
                "room": In(1),
                "halt": In(1),
                "reserve": Out(1),
                "valid": Out(1),
                "issue": Out(issue_layout(hardware)),
                "act_bank": Out(1),
                "act_addr": Out(range(hardware.buffer_vectors)),
                "wgt_bank": Out(1),
                "wgt_group": Out(range(hardware.max_groups)),
                "release_act": Out(1),
                "release_wgt": Out(1),
                "stall_wgt": Out(1),
                "stall_gap": Out(1),
                "stall_out": Out(1),
                "issued": Out(1),
                "running": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        job = self.job.payload.job
        block = self.hardware.row_block

        # Position. What a comparison with a wide counter would tell is kept in a bit of its own.
        slot, slots = Signal(range(block)), Signal(range(block))  # current and last of the block
        vectors_left = Signal.like(job.rows)  # after the block
        more_blocks = Signal()  # in the tile
        group = Signal.like(self.wgt_group)
        last_group = Signal()
        neg = Signal()
        tiles_left = Signal.like(job.tiles)  # after the tile
        last_tile = Signal()
        wgt_bank = Signal()
        address = Signal.like(self.act_addr)
        round_address = Signal.like(self.act_addr)  # of slot 0
        first_round = Signal()  # of the block
        hold = Signal(range(self.interval))  # cycles until slot 0 may come again

        last, round_end, block_end = Signal(), Signal(), Signal()
        tile_end, final = Signal(), Signal()
        m.d.comb += [
            last.eq(last_group & ~neg),
            round_end.eq(slot == slots),
            block_end.eq(round_end & last),
            tile_end.eq(block_end & ~more_blocks),
            final.eq(tile_end & last_tile),
        ]

        # Only the first issue of a round can be too early: later ones follow the round before at
        # the same distance, because nothing stops a round that is not the last of its block.
        early, able, go = Signal(), Signal(), Signal()
        m.d.comb += [
            early.eq((slot == 0) & ~first_round & (hold != 0)),
            able.eq(self.running & ~self.halt & self.weights_ready.bit_select(wgt_bank, 1)),
            go.eq(able & ~early & (~last | self.room)),
            self.stall_wgt.eq(self.running & ~self.halt & ~able),
            self.stall_gap.eq(able & early),
            self.stall_out.eq(able & ~early & last & ~self.room),
            self.issued.eq(go),
            self.reserve.eq(go & last),
            self.job.ready.eq(go & final),
        ]
        with m.If(go & (slot == 0)):
            m.d.sync += hold.eq(self.interval - 1)
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)

        # Blocks: the first of every tile is the same throughout a job, the next one is known a
        # cycle after a block begins. That is early enough, because a block with a successor is a
        # full one.
        opening = self._block(job.rows)
        first_block, next_block = Signal(opening.shape()), Signal(opening.shape())
        m.d.sync += [first_block.eq(opening), next_block.eq(self._block(vectors_left))]
        upcoming = Signal(opening.shape())
        with m.If(~self.running):
            m.d.comb += upcoming.eq(opening)
        with m.Elif(more_blocks):
            m.d.comb += upcoming.eq(next_block)
        with m.Else():
            m.d.comb += upcoming.eq(first_block)
        with m.If((go & block_end) | ~self.running):
            m.d.sync += [
                Cat(slots, vectors_left, more_blocks).eq(upcoming),
                group.eq(0),
                last_group.eq(job.groups == 1),
                neg.eq(job.dual),
                first_round.eq(1),
            ]

        with m.If(go):
            m.d.sync += slot.eq(Mux(round_end, 0, slot + 1))
            with m.If(~round_end):
                m.d.sync += address.eq(address + job.groups)
            with m.Elif(~last):
                m.d.sync += first_round.eq(0)
                with m.If(neg):
                    m.d.sync += [neg.eq(0), address.eq(round_address)]
                with m.Else():
                    m.d.sync += [
                        neg.eq(job.dual),
                        group.eq(group + 1),
                        last_group.eq(group + 2 == job.groups),
                        round_address.eq(round_address + 1),
                        address.eq(round_address + 1),
                    ]
            with m.Else():
                # The word after the block's last one is the first of the next block.
                following = Mux(more_blocks, address + 1, 0)
                m.d.sync += [round_address.eq(following), address.eq(following)]
            with m.If(tile_end):
                m.d.sync += [
                    tiles_left.eq(tiles_left - 1),
                    last_tile.eq(tiles_left == 1),
                    wgt_bank.eq(~wgt_bank),
                ]
            with m.If(final):
                m.d.sync += self.running.eq(0)
        with m.Elif(~self.running & self.job.valid & ~job.dump):
            m.d.sync += [
                self.running.eq(1),
                tiles_left.eq(job.tiles - 1),
                last_tile.eq(job.tiles == 1),
                address.eq(0),
                round_address.eq(0),
            ]

        # One register before memories and array.
        m.d.sync += [
            self.valid.eq(go),
            self.issue.slot.eq(slot),
            self.issue.first.eq(first_round),
            self.issue.last.eq(last),
            self.issue.final.eq(final),
            self.issue.dual.eq(job.dual),
            self.issue.neg.eq(neg),
            self.issue.scale_exp.eq(job.scale_exp),
            self.act_bank.eq(self.bank),
            self.act_addr.eq(address),
            self.wgt_bank.eq(wgt_bank),
            self.wgt_group.eq(group),
            self.release_act.eq(go & final),
            self.release_wgt.eq(go & tile_end),
        ]
        return m

    def _block(self, vectors: Value) -> Value:
        """The block at the front of some vectors: its last slot, vectors after it, whether any."""
        block = self.hardware.row_block
        bits = (block - 1).bit_length()
        above = vectors[bits:]
        full = above.any()
        return Cat(
            Mux(full, block - 1, vectors[:bits] - 1)[:bits],
            Mux(full, Cat(vectors[:bits], above - 1)[: len(vectors)], 0),
            full & ((above != 1) | vectors[:bits].any()),
        )
