# SPDX-License-Identifier: Apache-2.0
"""Where weights enter the chain of row groups: at the first link, and at the heads of sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.sections import section_heads
from lutvar.hw.links import sections_of
from lutvar.hw.units.pipeline import delay
from lutvar.hw.verilog import place

from .forms import make_weight_recoder
from .row_group import RowGroup


@dataclass(frozen=True)
class Head:
    """A link that takes weights of its own when the array has as many sections.

    Attributes:
        operand, ws, bias: the weights, in step with what comes from the link before.
        least: the smallest number (base-2 logarithm) of sections for which the link is a head.
    """

    operand: Value
    ws: Value
    bias: Value
    least: int

    def enter(self, m: Module, before: RowGroup, after: RowGroup) -> None:
        """Lets the weights in between two links, one LUT level behind registers.

        All that is said of a vector beside its weights goes on along the chain.
        """
        own = Signal(reset_less=True)
        m.d.sync += own.eq(before.sections >= self.least)  # in step with `before.sections_out`
        vector = before.vector_out
        m.d.comb += [
            after.operand.eq(Mux(own, self.operand, before.operand_out)),
            after.vector.ws.eq(Mux(own, self.ws, vector.ws)),
            after.vector.bias.eq(Mux(own, self.bias, vector.bias)),
        ]


def make_heads(m: Module, platform: Any, config: AcceleratorConfig, step: Any) -> dict[int, Head]:
    """The heads of all sections, by link, from a step of the conductor.

    Weights reach the head at link h when the step's marks do, h cycles after those of link 0: they
    wait in a delay line, a shift-register LUT for each bit of the codes, before they are recoded.
    """
    heads = {}
    most = sections_of(config)[-1]
    for section, link in enumerate(section_heads(config.row_groups, most)):
        vector = step.vectors[section]
        recoder = make_weight_recoder(config)
        place(m, platform, f"recoder_{section}", recoder, "weight_recoder")
        m.d.comb += recoder.codes.eq(delay(m, vector.codes, link, f"codes_line_{section}"))
        wait = link + recoder.latency
        heads[link] = Head(
            recoder.operand,
            delay(m, vector.ws, wait, f"ws_line_{section}"),
            delay(m, vector.bias, wait, f"bias_line_{section}"),
            section.bit_length(),
        )
    return heads
