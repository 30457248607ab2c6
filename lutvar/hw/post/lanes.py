# SPDX-License-Identifier: Apache-2.0
"""The lanes of POST and what makes beats for memory of their results."""

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, AcceleratorConfig
from lutvar.hw.links import BEAT
from lutvar.hw.units.pipeline import data_register, delay, valid_line
from lutvar.hw.verilog import place

from .lane import GeluLane, HalfLane
from .multiply_add import HALF_AS_FLOAT, multiply_add
from .orders import PARTS, Path, job_layout
from .records import RecordMaker
from .transpose import PART, BlockBuffer
from .vectors import WORDS

#: Cycles from `fire` to a value at `GeluLane` and `HalfLane`; at `MultiplyAdd` one later.
AT_HALF = BlockBuffer.READ_LATENCY
AT_SUM = AT_HALF + 1
AT_SCALED = AT_SUM + GeluLane.LATENCY  #: of GELU's product at `MultiplyAdd`


@dataclass(frozen=True)
class LaneTimes:
    """Cycles of the lanes, which depend on the form of `MultiplyAdd`.

    Attributes:
        shifts: from `fire` to the shifts of GELU.
        sums, gelu: from `fire` to `push`.
        near: of `RecordMaker`.
        gelu_to_sum, gelu_to_record: between a value for GELU and one of another path, both
            excluded: sums would overtake it, values for records meet its results in `HalfLane`.
    """

    shifts: int
    sums: int
    gelu: int
    near: int
    gelu_to_sum: int
    gelu_to_record: int

    @classmethod
    def of(cls, config: AcceleratorConfig) -> "LaneTimes":
        """The times of a configuration."""
        form = multiply_add(config)
        scaled = AT_SCALED + form.LATENCY
        sums, gelu = AT_SUM + form.LATENCY + 1, scaled + HalfLane.LATENCY + 1
        times = cls(
            shifts=AT_SCALED + form.X_LAG - 1, sums=sums, gelu=gelu, near=sums,
            gelu_to_sum=gelu - sums, gelu_to_record=scaled - AT_HALF,
        )  # fmt: skip
        # Neither in `MultiplyAdd` nor where its operands are read do sums meet GELU; sums and
        # GELU results leave after the records that were near when their path began.
        assert GeluLane.LATENCY < times.gelu_to_sum <= times.gelu_to_record
        return times


class Lanes(wiring.Component):
    """32 lanes for FP16 values, the record maker behind these; sums take half of 16 of them.

    `MultiplyAdd` of the first 16 lanes serves sums and GELU. Nothing is refused; `Issue` sees to
    it that results leave one at a time and in order. Cost: 32 of each kind of lane (96 DSPs, 16
    BRAM36), a record maker.
    """

    fire: In(1)  #: values enter (`Issue`): of the sums 16, of the other paths 32
    job: In(job_layout())  #: what they belong to, with `fire`
    part: In(range(PARTS))  #: which part of the row, with `fire`
    row: In(BEAT)  #: the float32 summands, with `fire`
    #: factors (`VectorReader`), `AT_SUM` cycles after `fire`, for GELU `AT_SCALED`
    factors: In(WORDS)
    shifts: In(WORDS)  #: shifts of GELU (`VectorReader`), `LaneTimes.shifts` cycles after `fire`
    late: In(1)  #: comes with `shifts` that belong to GELU
    values: In(PART * 32)  #: the 32 float32 values that `BlockBuffer` reads
    #: a beat of results, `LaneTimes.sums` or `gelu` cycles after `fire`, or for a record whenever
    #: it is done
    push: Out(1)
    beat: Out(BEAT)  #: the beat
    near: Out(1)  #: one cycle for each record, `LaneTimes.near + 1` cycles before its `push`

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config, self.times = config, LaneTimes.of(config)
        super().__init__()

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        times = self.times

        def fired(path: Path, cycles: int) -> Signal:
            entered = self.fire & (self.job.path == path)
            return valid_line(m, entered, cycles, f"fired_{path.name.lower()}")

        summed = fired(Path.SUM, times.sums - 1)
        recorded = fired(Path.RECORD, AT_HALF + HalfLane.LATENCY)
        gated = fired(Path.GELU, times.gelu - 1)
        scaled = self._multiply_add(m, platform, gated)
        halves = []
        for k in range(PART):
            lane = HalfLane()
            place(m, platform, f"half_lane_{k}", lane, "post_half_lane")
            m.d.comb += [
                lane.y.eq(self.values.word_select(k, 32)),
                lane.scaled.eq(scaled[k]),
                lane.direct.eq(recorded[AT_HALF - 1]),
            ]
            halves.append(lane.half)

        m.submodules.records = records = RecordMaker(self.config.kv, times.near)
        head = self.fire & (self.part[:2] == 0) & (self.job.path == Path.RECORD)
        tag_valid = valid_line(m, head, AT_SUM, "tag_valid")
        m.d.comb += [
            records.tag_valid.eq(tag_valid[-1]),
            records.tag.kind.eq(delay(m, self.job.kind, AT_SUM, "kind_line")),
            records.tag.kappa.eq(self.factors[:HALF_AS_FLOAT]),
            records.values.eq(Cat(*halves)),
            records.valid.eq(recorded[-1]),
            self.near.eq(records.near),
        ]

        m.d.sync += self.push.eq(summed[-1] | gated[-1] | records.done)
        beat = data_register(m, self.beat, "beat_register")
        with m.If(summed[-1]):
            m.d.sync += beat.eq(Cat(*scaled[:LANES]))
        with m.Elif(gated[-1]):
            m.d.sync += beat.eq(Cat(*halves))
        with m.Else():
            m.d.sync += beat.eq(records.record)
        return m

    def _multiply_add(self, m: Module, platform: Any, gated: Signal) -> list[Value]:
        """GELU's product, and `MultiplyAdd` for sums and GELU; its 32 results."""
        form = multiply_add(self.config)
        products = []
        for k in range(PART):
            gelu = GeluLane()
            place(m, platform, f"gelu_lane_{k}", gelu, "post_gelu_lane")
            m.d.comb += gelu.y.eq(self.values.word_select(k, 32))
            products.append(gelu.t)

        summands = Signal(BEAT, name="row", reset_less=True)
        m.d.sync += summands.eq(Mux(self.job.add, self.row, 0))
        row = delay(m, summands, AT_SUM + form.X_LAG - 2, "row_line")
        high = delay(m, self.part[0], AT_HALF, "high_line")
        ready = gated[AT_SCALED - 2]  # a product for GELU is there
        results: list[Value] = []
        for k in range(PART):
            y = Signal(32, name=f"y_{k}", reset_less=True)
            x = Signal(32, name=f"x_{k}", reset_less=True)
            shift = Cat(Const(0, 32 - HALF_AS_FLOAT), self.shifts.word_select(k, HALF_AS_FLOAT))
            if k < LANES:
                halves = (self.values.word_select(LANES * h + k, 32) for h in (1, 0))
                value = Mux(high, *halves)
                m.d.sync += [
                    y.eq(Mux(ready, products[k], value)),
                    x.eq(Mux(self.late, shift, row.word_select(k, 32))),
                ]
            else:
                m.d.sync += [y.eq(products[k]), x.eq(shift)]
            unit = form()
            place(m, platform, f"multiply_add_{k}", unit, "post_multiply_add")
            m.d.comb += [
                unit.y.eq(y),
                unit.g.eq(self.factors.word_select(k, HALF_AS_FLOAT)),
                unit.x.eq(x),
            ]
            results.append(unit.s)
        return results
