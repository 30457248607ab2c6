# SPDX-License-Identifier: Apache-2.0
"""Records of a head: read from memory once, handed out for each block of query rows."""

from __future__ import annotations

from typing import Any

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.memory import SCALE_BYTE
from lutvar.hw.links import BEAT
from lutvar.hw.port_types import Stream, view_signal
from lutvar.hw.units.count import Level
from lutvar.hw.units.ram_style import ram_style
from lutvar.hw.verilog import ExportPlatform, instantiate

from .sizes import AttentionSizes

#: No initial words: none is read before it is written, and UltraRAM may not have any. Nor may its
#: output registers, which start with zeros: `initial` is for simulators.
_RAM = """\
// Records of a head: read latch and output register each have an enable. A word is not read in
// the cycle in which it is written: simulation returns wrong bits then.
module lutvar_head_{style} #(parameter WIDTH = 1, parameter DEPTH = 2, parameter ADDRESS = 1) (
  input clk,
  input write_en,
  input [ADDRESS-1:0] write_addr,
  input [WIDTH-1:0] write_data,
  input read_en,
  input [ADDRESS-1:0] read_addr,
  input out_en,
  output [WIDTH-1:0] read_data
);
  (* ram_style = "{style}" *) reg [WIDTH-1:0] words [0:DEPTH-1];
  reg [WIDTH-1:0] stage;
  reg [WIDTH-1:0] out;
`ifndef SYNTHESIS
  initial begin
    stage = {{WIDTH{{1'b0}}}};
    out = {{WIDTH{{1'b0}}}};
  end
`endif
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


def pass_layout(sizes: AttentionSizes) -> data.StructLayout:
    """A pass over the records of a head; `last`: they are not needed afterwards."""
    return data.StructLayout({"keys": range(sizes.max_keys + 1), "last": 1})


class HeadMemory(wiring.Component):
    """Keeps the records of a head while blocks of its rows are worked on, and of the next ones.

    Args:
        scales: 2 for K records, which repeat the scale of V; 1 for V records.

    A record can be handed out 3 cycles after it was taken, while later ones still come. One record
    in each cycle, and one cycle more for each pass.

    Cost: for 64 codes of 6 bits 6 UltraRAM or 6 block RAM for each 512 records (their number is
    the power of two at or above `max_keys`), about 120 LUTs.
    """

    #: in: beats as they are in memory, head after head. Taken while there is a place: those of the
    #: next heads are, in places that are free or that the last pass frees
    records: Stream
    passes: Stream  #: in: what to hand out, in order; as many keys for all passes of a head
    o: Stream  #: out: records of the passes; bits that nobody needs are 0

    def __init__(self, sizes: AttentionSizes, scales: int) -> None:
        self.sizes = sizes
        self.codes, self.scales = HEAD_DIM * sizes.fmt.bits, 16 * scales
        self.width = self.codes + self.scales
        self.depth = 1 << (sizes.max_keys - 1).bit_length()
        super().__init__(
            {
                "records": In(stream.Signature(unsigned(BEAT))),
                "passes": In(stream.Signature(pass_layout(sizes))),
                "o": Out(stream.Signature(unsigned(BEAT))),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        push = Signal()
        pop = Signal()
        out_en = Signal()
        level = Signal(range(self.depth + 1))  # records ahead of the pass
        some = Signal()  # it is not 0: in a register, for `pop` reaches far
        write_addr = Signal(range(self.depth))
        read_addr = Signal(range(self.depth))
        staged = Signal()  # the read latch holds a record
        current = view_signal(pass_layout(self.sizes), reset_less=True)
        left = Signal.like(current.keys, reset_less=True)
        busy = Signal()
        final = Signal()
        again = Signal()
        stored = Level(m, "stored", self.depth, push, pop & current.last)
        m.d.comb += [
            self.records.ready.eq(stored.room),
            push.eq(self.records.valid & self.records.ready),
            out_en.eq(~self.o.valid | self.o.ready),
            pop.eq(busy & some & (~staged | out_en)),
            self.passes.ready.eq(~busy),
        ]
        # Between two passes is a cycle without a record: then the head's records lie ahead again.
        # One carry chain makes both changes of the level; its carry in is a record that comes with
        # the first.
        ones = Cat(Const(1, 1), (~push).replicate(len(level) - 1))
        change = Cat(again & push, Mux(again, current.keys, ones))
        with m.If(again | (push ^ pop)):
            m.d.sync += level.eq((Cat(Const(1, 1), level) + change)[1:])
        with m.If(again):
            m.d.sync += [some.eq(1), read_addr.eq(read_addr - current.keys)]
        with m.Else():
            m.d.sync += some.eq(Mux(some, (level > 1) | push | ~pop, push))
            with m.If(pop):
                m.d.sync += read_addr.eq(read_addr + 1)
        m.d.sync += [
            write_addr.eq(write_addr + push),
            staged.eq(Mux(~staged | out_en, pop, 1)),
            self.o.valid.eq(Mux(out_en, staged, 1)),
            again.eq(0),
        ]
        with m.If(self.passes.valid & self.passes.ready):
            m.d.sync += [
                current.eq(self.passes.payload),
                left.eq(self.passes.payload.keys),
                final.eq(self.passes.payload.keys == 1),
                busy.eq(1),
            ]
        with m.If(pop):
            m.d.sync += [left.eq(left - 1), final.eq(left == 2)]
            with m.If(final):
                m.d.sync += [busy.eq(0), again.eq(~current.last)]

        codes, scales = self.codes, self.scales
        record = self.records.payload
        fields = Cat(record[:codes], record[8 * SCALE_BYTE :][:scales])
        word = self._memory(m, platform, (push, write_addr, fields), (pop, read_addr), out_en)
        gap = Const(0, 8 * SCALE_BYTE - codes)
        m.d.comb += self.o.payload.eq(Cat(word[:codes], gap, word[codes:]))
        return m

    def _memory(self, m: Module, platform: Any, write: Any, read: Any, out_en: Value) -> Value:
        """Write port (enable, address, word), read port (enable, address); the word read."""
        if isinstance(platform, ExportPlatform):
            word = Signal(self.width)
            style = ram_style(self.depth, ultra=True).value
            instantiate(
                m, platform, "ram", f"head_{style}", _RAM.format(style=style),
                parameters={
                    "WIDTH": self.width, "DEPTH": self.depth, "ADDRESS": len(write[1]),
                },
                inputs={
                    "write_en": write[0], "write_addr": write[1], "write_data": write[2],
                    "read_en": read[0], "read_addr": read[1], "out_en": out_en,
                },
                outputs={"read_data": word},
            )  # fmt: skip
            return word
        m.submodules.ram = ram = memory.Memory(
            shape=unsigned(self.width), depth=self.depth, init=[]
        )
        store, fetch = ram.write_port(), ram.read_port(domain="sync")
        word = Signal(self.width, reset_less=True)
        m.d.comb += [
            store.en.eq(write[0]),
            store.addr.eq(write[1]),
            store.data.eq(write[2]),
            fetch.en.eq(read[0]),
            fetch.addr.eq(read[1]),
        ]
        with m.If(out_en):
            m.d.sync += word.eq(fetch.data)
        return word
