# SPDX-License-Identifier: Apache-2.0
"""The lanes of POST and what makes beats for memory of their results."""

from typing import Any

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES
from lutvar.contract.formats import NumberFormat
from lutvar.hw.links import BEAT
from lutvar.hw.units.pipeline import data_register, delay, valid_line
from lutvar.hw.verilog import place

from .lane import HalfLane, SumLane
from .orders import PARTS, Path, job_layout
from .records import RecordMaker
from .transpose import PART, BlockBuffer

#: Cycles from `fire` to a value at the half lanes; at the sum lanes one later.
AT_HALF = BlockBuffer.READ_LATENCY
AT_SUM = AT_HALF + 1
#: Cycles from `fire` to `push`.
SUM_CYCLES = AT_SUM + SumLane.LATENCY + 1
GELU_CYCLES = AT_HALF + HalfLane.LATENCY + 1


class Lanes(wiring.Component):
    """16 lanes for sums, 32 for FP16 values, the record maker behind these.

    Nothing is refused; `Issue` sees to it that results leave one at a time and in order. Cost: 16
    sum lanes, 32 half lanes (80 DSPs, 16 BRAM36), a record maker.
    """

    fire: In(1)  #: values enter (`Issue`): of the sums 16, of the other paths 32
    job: In(job_layout())  #: what they belong to, with `fire`
    part: In(range(PARTS))  #: which part of the row, with `fire`
    row: In(BEAT)  #: the float32 summands, with `fire`
    factors: In(BEAT // 2)  #: FP16 factors, one cycle later
    values: In(PART * 32)  #: the 32 float32 values that `BlockBuffer` reads
    #: a beat of results, after `SUM_CYCLES`, `GELU_CYCLES`, or for a record whenever it is done
    push: Out(1)
    beat: Out(BEAT)  #: the beat
    near: Out(1)  #: one cycle for each record, `RecordMaker.NEAR + 1` cycles before its `push`

    def __init__(self, fmt: NumberFormat) -> None:
        self.fmt = fmt
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()

        def fired(path: Path, cycles: int) -> Signal:
            entered = self.fire & (self.job.path == path)
            return valid_line(m, entered, cycles, f"fired_{path.name.lower()}")

        # Cycle 1: the factors' memory was read. Cycle 2: factors.
        scalar_1, vector_1 = Signal(16, reset_less=True), Signal(reset_less=True)
        g = Signal(BEAT // 2, reset_less=True)
        m.d.sync += [
            scalar_1.eq(self.job.scalar),
            vector_1.eq(self.job.vector),
            g.eq(Mux(vector_1, self.factors, scalar_1.replicate(LANES))),
        ]
        sums, summed = self._sums(m, platform, g), fired(Path.SUM, SUM_CYCLES - 1)
        recorded = fired(Path.RECORD, AT_HALF + HalfLane.DIRECT_LATENCY)
        gated = fired(Path.GELU, GELU_CYCLES - 1)
        halves = []
        for k in range(PART):
            lane = HalfLane()
            place(m, platform, f"half_lane_{k}", lane, "post_half_lane")
            m.d.comb += [
                lane.y.eq(self.values.word_select(k, 32)),
                lane.direct.eq(recorded[AT_HALF - 1]),
            ]
            halves.append(lane.half)

        m.submodules.records = records = RecordMaker(self.fmt)
        head = self.fire & (self.part[:2] == 0) & (self.job.path == Path.RECORD)
        tag_valid = valid_line(m, head, 2, "tag_valid")
        m.d.comb += [
            records.tag_valid.eq(tag_valid[-1]),
            records.tag.kind.eq(delay(m, self.job.kind, 2, "kind_line")),
            records.tag.kappa.eq(g[:16]),
            records.values.eq(Cat(*halves)),
            records.valid.eq(recorded[-1]),
            self.near.eq(records.near),
        ]

        m.d.sync += self.push.eq(summed[-1] | gated[-1] | records.done)
        beat = data_register(m, self.beat, "beat_register")
        with m.If(summed[-1]):
            m.d.sync += beat.eq(Cat(*sums))
        with m.Elif(gated[-1]):
            m.d.sync += beat.eq(Cat(*halves))
        with m.Else():
            m.d.sync += beat.eq(records.record)
        return m

    def _sums(self, m: Module, platform: Any, g: Value) -> list[Value]:
        """The sum lanes. `g`: factors, 2 cycles after `fire`; a lane takes them ahead of y."""
        factors = delay(m, g, AT_SUM - SumLane.G_LEAD - 2, "factors_line")
        summands = Signal(BEAT, name="row", reset_less=True)
        m.d.sync += summands.eq(Mux(self.job.add, self.row, 0))
        row = delay(m, summands, AT_SUM + SumLane.X_LAG - 1, "row_line")
        high = delay(m, self.part[0], AT_HALF, "high_line")
        y = Signal(BEAT, reset_less=True)
        m.d.sync += y.eq(self.values.word_select(high, BEAT))
        sums = []
        for k in range(LANES):
            lane = SumLane()
            place(m, platform, f"sum_lane_{k}", lane, "post_sum_lane")
            m.d.comb += [
                lane.y.eq(y.word_select(k, 32)),
                lane.g.eq(factors.word_select(k, 16)),
                lane.x.eq(row.word_select(k, 32)),
            ]
            sums.append(lane.sum)
        return sums
