# SPDX-License-Identifier: Apache-2.0
"""Where weights enter the chain of row groups: at the first link, and at the heads of sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from amaranth.hdl import Module, Mux, Signal, Value

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.sections import section_heads
from lutvar.hw.links import sections_of
from lutvar.hw.port_types import view_signal
from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory
from lutvar.hw.units.pipeline import delay
from lutvar.hw.units.ram_style import RamStyle
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
    wait before they are recoded, in a block RAM for each 72 bits if the way is long enough.
    """
    heads = {}
    most = sections_of(config)[-1]
    for section, link in enumerate(section_heads(config.row_groups, most)):
        vector = step.vectors[section]
        recoder = make_weight_recoder(config)
        place(m, platform, f"recoder_{section}", recoder, "weight_recoder")
        here = view_signal(vector.shape())
        m.d.comb += [
            Value.cast(here).eq(wait(m, Value.cast(vector), link, f"way_{section}")),
            recoder.codes.eq(here.codes),
        ]
        heads[link] = Head(
            recoder.operand,
            delay(m, here.ws, recoder.latency, f"ws_line_{section}"),
            delay(m, here.bias, recoder.latency, f"bias_line_{section}"),
            section.bit_length(),
        )
    return heads


def wait(m: Module, value: Value, cycles: int, name: str) -> Value:
    """`value` after some cycles: a memory that is read where it was written so long ago.

    LUTs are the scarcer thing: as shift registers they would take one for each bit. What comes out
    in the first cycles is what the memory holds at the start.
    """
    if cycles <= READ_LATENCY:
        return delay(m, value, cycles, name)
    size = 1 << (cycles - 1).bit_length()
    m.submodules[name] = memory = ChunkMemory(len(value), len(value), size, style=RamStyle.BLOCK)
    now = Signal(range(size), name=f"{name}_now")
    then = Signal(range(size), name=f"{name}_then", init=READ_LATENCY - cycles & size - 1)
    m.d.sync += [now.eq(now + 1), then.eq(then + 1)]
    m.d.comb += [
        memory.write_en.eq(1),
        memory.write_addr.eq(now),
        memory.write_data.eq(value),
        memory.read_addr.eq(then),
    ]
    return memory.read_data
