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
        shifts, norm_shifts: from `fire` to the shifts of GELU, of NORM.
        sums, gelu, norm: from `fire` to `push`; of NORM, of the beat's second half.
        near: of `RecordMaker`.
        gelu_to_sum, gelu_to_record: between a value for GELU and one of another path, both
            excluded: sums would overtake it, values for records meet its results in `HalfLane`.
    """

    shifts: int
    norm_shifts: int
    sums: int
    gelu: int
    norm: int
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
            shifts=AT_SCALED + form.X_LAG - 1, norm_shifts=AT_SUM + form.X_LAG - 1, sums=sums,
            gelu=gelu, norm=gelu, near=sums,
            gelu_to_sum=gelu - sums, gelu_to_record=scaled - AT_HALF,
        )  # fmt: skip
        # Neither in `MultiplyAdd` nor where its operands are read do sums meet GELU; sums and
        # GELU results leave after the records that were near when their path began.
        assert GeluLane.LATENCY < times.gelu_to_sum <= times.gelu_to_record
        return times


class Lanes(wiring.Component):
    """32 lanes for FP16 values, the record maker behind these; sums take half of 16 of them.

    The first 16 lanes serve NORM, too, which passes `MultiplyAdd`, then `GeluLane`, then
    `HalfLane`; `MultiplyAdd` of these lanes serves sums and GELU. Nothing is refused; `Issue` sees
    to it that results leave one at a time and in order. Cost: 32 of each kind of lane (96 DSPs, 16
    BRAM36, with NORM 24), a record maker.
    """

    fire: In(1)  #: values enter (`Issue`): of the sums 16, of the other paths 32
    job: In(job_layout())  #: what they belong to, with `fire`
    part: In(range(PARTS))  #: which part of the row, with `fire`
    row: In(BEAT)  #: the float32 summands, or NORM's values, with `fire`
    #: factors (`VectorReader`), `AT_SUM` cycles after `fire`, for GELU `AT_SCALED`
    factors: In(WORDS)
    #: shifts (`VectorReader`), `LaneTimes.shifts` cycles after `fire`, for NORM `norm_shifts`
    shifts: In(WORDS)
    shifted: In(1)  #: comes with `shifts` that belong to GELU or NORM
    values: In(PART * 32)  #: the 32 float32 values that `BlockBuffer` reads
    #: a beat of results, `LaneTimes.sums`, `gelu` or `norm` cycles after `fire`, or for a record
    #: whenever it is done
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
        # NORM's values at `MultiplyAdd`, then at `GeluLane`, at `HalfLane`, in the beat.
        normed = fired(Path.NORM, times.norm - 1) if self.config.decoder else Const(0, times.norm)
        scaled, products = self._multiply_add(m, platform, gated, normed)
        last = times.norm - 2 - HalfLane.LATENCY  # in `normed`, of products at `HalfLane`
        halves = []
        for k in range(PART):
            lane = HalfLane()
            place(m, platform, f"half_lane_{k}", lane, "post_half_lane")
            direct, y = recorded[AT_HALF - 1], self.values.word_select(k, 32)
            if self.config.decoder and k < LANES:
                direct, y = direct | normed[last], Mux(normed[last], products[k], y)
            m.d.comb += [lane.y.eq(y), lane.scaled.eq(scaled[k]), lane.direct.eq(direct)]
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

        beat = data_register(m, self.beat, "beat_register")
        first = Signal(LANES * 16, name="first_half", reset_less=True)
        pushed = summed[-1] | gated[-1] | records.done
        if self.config.decoder:
            # Two of NORM's parts are a beat: the first one waits.
            second = Signal()
            with m.If(normed[-1]):
                m.d.sync += [first.eq(Cat(*halves[:LANES])), second.eq(~second)]
            pushed = pushed | (normed[-1] & second)
        m.d.sync += self.push.eq(pushed)
        # Four sources at most, and the choice in two registers: a LUT for each bit.
        choice = Signal(2, name="choice", reset_less=True)
        m.d.sync += choice.eq(Cat(summed[-2] | normed[-2], gated[-2] | normed[-2]))
        with m.Switch(choice):
            with m.Case(1):
                m.d.sync += beat.eq(Cat(*scaled[:LANES]))
            with m.Case(2):
                m.d.sync += beat.eq(Cat(*halves))
            if self.config.decoder:
                with m.Case(3):
                    m.d.sync += beat.eq(Cat(first, *halves[:LANES]))
            with m.Default():
                m.d.sync += beat.eq(records.record)
        return m

    def _multiply_add(
        self, m: Module, platform: Any, gated: Signal, normed: Value
    ) -> tuple[list[Value], list[Value]]:
        """`MultiplyAdd` for sums, GELU and NORM, and products with gates; their 32 results."""
        config = self.config
        form = multiply_add(config)
        gates = []
        gate = delay(m, self.job.gate, AT_SUM + form.LATENCY, "gate_line")
        at_gate = normed[AT_SUM + form.LATENCY - 1]
        for k in range(PART):
            silu = config.decoder and k < LANES
            lane = GeluLane(silu)
            name = "post_norm_lane" if silu else "post_gelu_lane"
            place(m, platform, f"gelu_lane_{k}", lane, name)
            if silu:
                m.d.comb += [lane.norm.eq(at_gate), lane.gate.eq(gate)]
            gates.append(lane)
        products: list[Value] = [lane.t for lane in gates]

        summands = Signal(BEAT, name="row", reset_less=True)
        m.d.sync += summands.eq(Mux(self.job.add, self.row, 0))
        begun = delay(m, summands, AT_HALF - 1, "row_begun")
        row = delay(m, begun, form.X_LAG, "row_line")
        high = delay(m, self.part[0], AT_HALF - 1, "high_line")
        # What `MultiplyAdd` takes, chosen a cycle ahead: a part's half, NORM's row, or the product
        # for GELU that is there.
        ready, to_norm = gated[AT_SCALED - 3], normed[AT_HALF - 2]
        source = Signal(2, name="source", reset_less=True)
        m.d.sync += source.eq(Cat(Mux(ready | to_norm, ready, high), ready | to_norm))
        results: list[Value] = []
        for k in range(PART):
            y = Signal(32, name=f"y_{k}", reset_less=True)
            x = Signal(32, name=f"x_{k}", reset_less=True)
            shift = Cat(Const(0, 32 - HALF_AS_FLOAT), self.shifts.word_select(k, HALF_AS_FLOAT))
            if k < LANES:
                values = [self.values.word_select(LANES * h + k, 32) for h in range(2)]
                values += [begun.word_select(k, 32) if config.decoder else products[k], products[k]]
                with m.Switch(source):
                    for number, value in enumerate(values):
                        with m.Case(number):
                            m.d.sync += y.eq(value)
                m.d.sync += x.eq(Mux(self.shifted, shift, row.word_select(k, 32)))
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
        for k, lane in enumerate(gates):
            value = self.values.word_select(k, 32)
            m.d.comb += lane.y.eq(Mux(at_gate, results[k], value) if lane.silu else value)
        return results, products
