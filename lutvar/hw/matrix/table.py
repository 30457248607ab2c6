# SPDX-License-Identifier: Apache-2.0
"""The form `table`: product tables, one lane for each of 16 x 128 products."""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import LANES, ROW_GROUP, AcceleratorConfig
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.widths import WORDS
from lutvar.hw.inspection import for_inspection
from lutvar.hw.units.dot import TableDot
from lutvar.hw.units.pipeline import data_register
from lutvar.hw.units.planes import CHUNK, to_planes
from lutvar.hw.units.product_design import ProductDesign
from lutvar.hw.verilog import place

from .dot_form import GroupDot, WeightRecoder, group_dot_members, product_design

#: Words of 16 codes in a plane. Operands are loaded word by word, so the order of lanes in a plane
#: is: words in order, and within a word what `to_planes` makes of 16 codes.
WORDS_PER_PLANE = CHUNK // LANES


class TableWeightRecode(WeightRecoder):
    """Recodes weight vectors for `TableGroupDot`."""

    latency = 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self.design = product_design(config)
        super().__init__(
            {
                "codes": In(GROUP * self.design.weight.bits),
                "operand": Out(GROUP * (self.design.weight_width + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        bits = self.design.weight.bits
        span = LANES * bits
        parts: list[Value] = []
        for first in range(0, WORDS, WORDS_PER_PLANE):
            words = [
                to_planes(m, self.codes[w * span : (w + 1) * span], bits, f"word{w}")
                for w in range(first, first + WORDS_PER_PLANE)
            ]
            planes = [Cat(*(word[k] for word in words)) for k in range(bits)]
            magnitude, sign = self.design.recode_weight(m, planes, f"recoded{first}")
            parts += [*magnitude, sign]
        m.d.sync += data_register(m, self.operand, "recoded").eq(Cat(*parts))
        return m


class RowOperand(wiring.Component):
    """The recoded activations of one row: current, and next."""

    load_valid: Signal  #: in: a word of the next operand
    load_codes: Signal  #: in: 16 codes of the row
    load_dual: Signal  #: in: the codes are of the dual format
    load_negative: Signal  #: in: pass over its negative half
    start: Signal  #: in: the next operand becomes the current one
    operand: Signal  #: out: what `TableDot.activations` takes

    def __init__(self, design: ProductDesign) -> None:
        self.design = design
        super().__init__(
            {
                "load_valid": In(1),
                "load_codes": In(LANES * design.plain.bits),
                "load_dual": In(1),
                "load_negative": In(1),
                "start": In(1),
                "operand": Out(GROUP * (design.activation_width + 1)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        design = self.design
        code = to_planes(m, self.load_codes, design.plain.bits, "codes")
        magnitude, sign = design.recode_activation(
            m, list(code), self.load_dual, self.load_negative, "recoded"
        )
        planes = [*magnitude, sign]
        # Words come in order: each moves those before it down, which needs no decoder.
        parts: list[Value] = []
        above: list[Value] = planes
        for chunk in reversed(range(GROUP // CHUNK)):
            chunk_planes = []
            for k, entering in enumerate(above):
                plane = Signal(CHUNK, name=f"next{chunk}_{k}", reset_less=True)
                with m.If(self.load_valid):
                    m.d.sync += plane.eq(Cat(plane[LANES:], entering))
                chunk_planes.append(plane)
            above = [plane[:LANES] for plane in chunk_planes]
            parts = [*chunk_planes, *parts]
        current = Signal.like(self.operand, reset_less=True)
        m.d.comb += self.operand.eq(current)
        with m.If(self.start):
            m.d.sync += current.eq(Cat(*parts))
        return m


class TableGroupDot(GroupDot):
    """A `GroupDot` of product tables and adder trees (see `TableDot`).

    No cycle is lost between operands: `fill` = 1.
    """

    interval, settle, fill, hold = 1, 1, 1, 1

    def __init__(self, config: AcceleratorConfig) -> None:
        self.design = product_design(config)
        self.latency = for_inspection(TableDot(self.design, GROUP)).latency
        super().__init__(group_dot_members(config, GROUP * (self.design.weight_width + 1)))

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        span = LANES * self.design.plain.bits
        for row in range(ROW_GROUP):
            operand = RowOperand(self.design)
            place(m, platform, f"operand_{row}", operand, "rows_operand")
            dot = TableDot(self.design, GROUP)
            place(m, platform, f"dot_{row}", dot, "rows_dot")
            m.d.comb += [
                operand.load_valid.eq(self.load_valid),
                operand.load_codes.eq(self.load_codes[row * span : (row + 1) * span]),
                operand.load_dual.eq(self.load_dual),
                operand.load_negative.eq(self.load_negative),
                operand.start.eq(self.start),
                dot.activations.eq(operand.operand),
                dot.weights.eq(self.weights),
                self.sums[row].eq(dot.sum),
            ]
        return m
