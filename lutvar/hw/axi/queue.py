# SPDX-License-Identifier: Apache-2.0
"""A queue of wide words in block RAM, with the RAM's output register."""

from typing import Any

from amaranth.hdl import Module, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.port_types import Stream
from lutvar.hw.units.count import Level
from lutvar.hw.units.ram_style import RamStyle, ram_style
from lutvar.hw.verilog import ExportPlatform, instantiate

#: Amaranth writes the initial value of every word; that would be most of the file.
_RAM = """\
// Storage of a queue: read latch and output register each have an enable. A word is not read in
// the cycle in which it is written: simulation returns wrong bits then.
module lutvar_queue_ram_STYLE #(parameter WIDTH = 1, parameter DEPTH = 2, parameter ADDRESS = 1) (
  input clk,
  input write_en,
  input [ADDRESS-1:0] write_addr,
  input [WIDTH-1:0] write_data,
  input read_en,
  input [ADDRESS-1:0] read_addr,
  input out_en,
  output [WIDTH-1:0] read_data
);
  (* ram_style = "STYLE" *) reg [WIDTH-1:0] words [0:DEPTH-1];
  reg [WIDTH-1:0] stage;
  reg [WIDTH-1:0] out;
  integer i;
  initial begin
    for (i = 0; i < DEPTH; i = i + 1) words[i] = {WIDTH{1'b0}};
    stage = {WIDTH{1'b0}};
    out = {WIDTH{1'b0}};
  end
  always @(posedge clk) begin
    if (write_en) words[write_addr] <= write_data;
    if (read_en) stage <= words[read_addr];
`ifndef SYNTHESIS
    if (read_en && write_en && write_addr == read_addr) stage <= ~words[read_addr];
`endif
    if (out_en) out <= stage;
  end
  assign read_data = out;
endmodule
"""


class WideQueue(wiring.Component):
    """Queue of words whose writer knows that there is a place, from `room` or by counting.

    Args:
        width: bits of a word.
        depth: places in the RAM, a power of two; two more words wait in the output registers.
        style: of the RAM; default: by its depth (`ram_style`).

    Latency 3 cycles from `push` to `o.valid`; one word in each cycle. A word is never read in
    the cycle in which it is written. Cost: block RAM (LUTRAM when shallow), no fabric registers.
    """

    push: Signal  #: in: a word arrives; only while fewer than `depth` words are in the RAM
    data: Signal  #: in: the word
    room: Signal  #: out: the RAM has a place, with the pushes before this cycle counted
    taken: Signal  #: out: a word leaves the RAM, so that its place is free again
    o: Stream  #: out: words in order; `payload` is the RAM's output register
    soon: Signal  #: out: `o.valid` in the next cycle

    def __init__(self, width: int, depth: int, *, style: RamStyle | None = None) -> None:
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"depth is {depth}; it must be a power of two, 2 or more")
        self.width, self.depth = width, depth
        self.style = style or ram_style(depth)
        super().__init__(
            {
                "push": In(1),
                "data": In(width),
                "room": Out(1),
                "taken": Out(1),
                "o": Out(stream.Signature(unsigned(width))),
                "soon": Out(1),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        write_addr = Signal(range(self.depth))
        read_addr = Signal(range(self.depth))
        level = Level(m, "level", self.depth, self.push, self.taken)  # in the RAM
        staged = Signal()  # the RAM's read latch holds a word
        out_en = Signal()
        m.d.comb += [
            self.room.eq(level.room),
            out_en.eq(~self.o.valid | self.o.ready),
            self.taken.eq(level.some & (~staged | out_en)),
            self.soon.eq(staged | ~out_en),
        ]
        m.d.sync += [
            write_addr.eq(write_addr + self.push),
            read_addr.eq(read_addr + self.taken),
            staged.eq(level.some | (staged & ~out_en)),
            self.o.valid.eq(self.soon),
        ]
        if isinstance(platform, ExportPlatform):
            instantiate(
                m, platform, "ram", f"queue_ram_{self.style.value}",
                _RAM.replace("STYLE", self.style.value),
                parameters={
                    "WIDTH": self.width, "DEPTH": self.depth, "ADDRESS": len(write_addr),
                },
                inputs={
                    "write_en": self.push, "write_addr": write_addr, "write_data": self.data,
                    "read_en": self.taken, "read_addr": read_addr, "out_en": out_en,
                },
                outputs={"read_data": self.o.payload},
            )  # fmt: skip
            return m
        m.submodules.ram = ram = memory.Memory(
            shape=unsigned(self.width), depth=self.depth, init=[]
        )
        write, read = ram.write_port(), ram.read_port(domain="sync")
        m.d.comb += [
            write.en.eq(self.push),
            write.addr.eq(write_addr),
            write.data.eq(self.data),
            read.en.eq(self.taken),
            read.addr.eq(read_addr),
        ]
        with m.If(out_en):
            m.d.sync += Value.cast(self.o.payload).eq(read.data)
        return m
