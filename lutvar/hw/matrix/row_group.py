# SPDX-License-Identifier: Apache-2.0
"""Sixteen token rows: operands, dot products, scaling, accumulators. A link of the chain."""

from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import ROW_GROUP, AcceleratorConfig
from lutvar.hw.links import drain_layout, drain_values, sections_bits, sections_of
from lutvar.hw.port_types import View
from lutvar.hw.units.memory import READ_LATENCY
from lutvar.hw.units.pipeline import delay, valid_line

from .accumulate import GroupAccumulator, accumulator_latency
from .chain import load_layout, marks_layout, vector_layout, write_layout
from .forms import dot_timing, make_group_dot
from .operands import GroupOperands, operand_latency
from .scale_add import weight_scale

_CHAIN = ("marks", "vector", "operand", "load", "write")


def chain_ports(config: AcceleratorConfig) -> tuple[str, ...]:
    """Names of the ports that lead from link to link in the direction of the weights."""
    return (*_CHAIN, "sections") if sections_bits(config) else _CHAIN


def row_group_latency(config: AcceleratorConfig) -> int:
    """Cycles from a vector at a link to the cycle in which its results may be read there."""
    return 1 + dot_timing(config).latency + accumulator_latency(config)


def _number(config: AcceleratorConfig) -> range:
    """Numbers of row groups."""
    return range(max(2, config.row_groups))


class RowGroup(wiring.Component):
    """One link of the chain of row groups.

    A vector that comes in at cycle t is in the accumulators from cycle t + `latency` on.
    """

    DRAIN_LATENCY = READ_LATENCY + 2

    #: in: constant; which link of its section this is, for each number of sections; so the first
    #: one is its place in the whole chain
    places: View
    marks: View  #: in: from the link before (`chain`)
    vector: View  #: in: from the link before
    operand: Signal  #: in: the recoded weight vector, from the link before
    load: View  #: in: from the link before
    write: View  #: in: from the link before
    #: in: log2 of the vector's number of sections, for the heads behind this link; only if there
    #: may be several
    sections: Signal
    #: in: request, from the link after: requests travel the other way, one cycle for each link
    drain: View
    marks_out: View  #: out: `marks`, one cycle later
    vector_out: View  #: out: `vector`, one cycle later
    operand_out: Signal  #: out: `operand`, one cycle later
    load_out: View  #: out: `load`, one cycle later
    write_out: View  #: out: `write`, one cycle later
    sections_out: Signal  #: out: `sections`, one cycle later
    drain_out: View  #: out: `drain`, one cycle later
    drained_in: View  #: in: values, in the same direction as requests
    #: out: values of a request that came at cycle t, at t + `DRAIN_LATENCY`; those of links before
    #: at one cycle more for each link
    drained: View

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        dot = dot_timing(config)
        self.latency = row_group_latency(config)
        chain: dict[str, Any] = {
            "marks": marks_layout(),
            "vector": vector_layout(config),
            "operand": dot.weight_bits,
            "load": load_layout(config),
            "write": write_layout(config),
        }
        if sections_bits(config):
            chain["sections"] = sections_bits(config)
        chain["drain"] = drain_layout(config)
        super().__init__(
            {
                "places": In(data.ArrayLayout(_number(config), len(sections_of(config)))),
                **{name: In(shape) for name, shape in chain.items()},
                **{f"{name}_out": Out(shape) for name, shape in chain.items()},
                "drained_in": In(drain_values()),
                "drained": Out(drain_values()),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        here: dict[str, Any] = {}
        for name in (*chain_ports(self.config), "drain"):
            port = getattr(self, name)
            register = Signal(port.shape(), name=f"{name}_here", reset_less=name != "marks")
            m.d.sync += register.eq(port)
            m.d.comb += getattr(self, f"{name}_out").eq(register)
            here[name] = register
        marks, vector, write, drain = (here[n] for n in ("marks", "vector", "write", "drain"))

        m.submodules.operands = operands = GroupOperands(self.config)
        m.submodules.dot = dot = make_group_dot(self.config)
        m.submodules.accumulator = accumulator = GroupAccumulator(self.config)
        within = ROW_GROUP.bit_length() - 1
        # A tile's row group is in one link of each section.
        place = self.places[write.sections] if sections_bits(self.config) else self.places[0]
        m.d.comb += [
            operands.write_valid.eq(marks.write & (write.row[within:] == place)),
            operands.write_row.eq(write.row[:within]),
            operands.write_address.eq(write.address),
            operands.write_data.eq(write.data),
            operands.load_valid.eq(marks.load),
            operands.load.eq(here["load"]),
            dot.load_valid.eq(operands.word_valid),
            dot.load_word.eq(operands.word.word),
            dot.load_codes.eq(operands.codes),
            dot.load_dual.eq(operands.word.dual),
            dot.load_negative.eq(operands.word.negative),
            dot.start.eq(marks.start),
            dot.weights.eq(here["operand"]),
        ]

        # Everything else of a vector waits for its sums.
        arrived = valid_line(m, marks.vector, dot.latency, "arrived")
        late_vector = delay(m, Value.cast(vector), dot.latency, "vector_line")
        late_scales = self._late_scales(m, operands, marks.start, dot)
        m.d.comb += [
            accumulator.valid.eq(arrived[-1]),
            Value.cast(accumulator.vector).eq(late_vector),
            Value.cast(accumulator.m).eq(late_scales),
            accumulator.scale.eq(
                weight_scale(m, self.config, vector.ws, vector.exponent, dot.latency)
            ),
            accumulator.drain_bank.eq(drain.bank),
            accumulator.drain_pair.eq(drain.column),
        ]
        for row in range(ROW_GROUP):
            m.d.comb += accumulator.sums[row].eq(dot.sums[row])

        mine = delay(m, drain.row_group == self.places[0], READ_LATENCY, "mine_line")
        values = Signal(len(Value.cast(self.drained)), name="values", reset_less=True)
        m.d.sync += values.eq(
            Mux(mine, Value.cast(accumulator.drained), Value.cast(self.drained_in))
        )
        m.d.comb += Value.cast(self.drained).eq(values)
        return m

    def _late_scales(self, m: Module, operands: GroupOperands, start: Value, dot: Any) -> Value:
        """Scales of the rows, in step with the sums.

        A form whose next operand comes long after the start lets them change that much later, which
        saves a delay line of 16 bits for each row.
        """
        if dot.hold <= dot.latency + operand_latency(self.config):
            m.d.comb += operands.start.eq(start)
            return delay(m, Value.cast(operands.scales), dot.latency, "scales_line")
        starts = valid_line(m, start, dot.latency, "starts")
        m.d.comb += operands.start.eq(starts[-1])
        return Value.cast(operands.scales)
