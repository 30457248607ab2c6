# SPDX-License-Identifier: Apache-2.0
"""Small memories in LUTs: one word written, several read without delay."""

from typing import Any

from amaranth.hdl import Module, Signal, unsigned
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.verilog import ExportPlatform, instantiate

#: A LUTRAM cell whose address serves reading and writing holds two bits a LUT and needs one copy
#: for each word that is read at the same time. Inference may choose cells of one bit a LUT, so
#: synthesis gets the primitive: `RAM32M16` with its eight addresses tied together is 32 x 16 bits
#: in eight LUTs (UG1353 for Versal, UG974 for UltraScale+). Yosys infers the same one. A simulator
#: needs one array only.
_STORE = """\
// Words of WIDTH bits in LUTs, read at COPIES addresses at once, without delay. While a word is
// written all addresses are equal.
`ifdef SYNTHESIS
`ifndef YOSYS
`define LUTVAR_RAM32M16
`endif
`endif
module lutvar_da_store #(
  parameter WIDTH = 1, parameter ADDRESS = 5, parameter COPIES = 1
) (
  input clk,
  input write,
  input [ADDRESS*COPIES-1:0] address,
  input [WIDTH-1:0] data,
  output [WIDTH*COPIES-1:0] words
);
  genvar c;
`ifdef LUTVAR_RAM32M16
  localparam PARTS = (WIDTH + 15) / 16;
  wire [16*PARTS-1:0] in = data;
  genvar p;
  generate
    for (c = 0; c < COPIES; c = c + 1) begin : copy
      wire [4:0] a = address[ADDRESS*c +: ADDRESS];
      wire [16*PARTS-1:0] out;
      for (p = 0; p < PARTS; p = p + 1) begin : part
        RAM32M16 cells (
          .DOA(out[16*p +: 2]), .DOB(out[16*p+2 +: 2]), .DOC(out[16*p+4 +: 2]),
          .DOD(out[16*p+6 +: 2]), .DOE(out[16*p+8 +: 2]), .DOF(out[16*p+10 +: 2]),
          .DOG(out[16*p+12 +: 2]), .DOH(out[16*p+14 +: 2]),
          .DIA(in[16*p +: 2]), .DIB(in[16*p+2 +: 2]), .DIC(in[16*p+4 +: 2]),
          .DID(in[16*p+6 +: 2]), .DIE(in[16*p+8 +: 2]), .DIF(in[16*p+10 +: 2]),
          .DIG(in[16*p+12 +: 2]), .DIH(in[16*p+14 +: 2]),
          .ADDRA(a), .ADDRB(a), .ADDRC(a), .ADDRD(a), .ADDRE(a), .ADDRF(a), .ADDRG(a), .ADDRH(a),
          .WE(write), .WCLK(clk)
        );
      end
      assign words[WIDTH*c +: WIDTH] = out[WIDTH-1:0];
    end
  endgenerate
`else
`ifdef SYNTHESIS
  generate
    for (c = 0; c < COPIES; c = c + 1) begin : copy
      (* ram_style = "distributed" *) reg [WIDTH-1:0] cells [0:(1<<ADDRESS)-1];
      integer i;
      initial for (i = 0; i < 1 << ADDRESS; i = i + 1) cells[i] = {WIDTH{1'b0}};
      always @(posedge clk) if (write) cells[address[ADDRESS*c +: ADDRESS]] <= data;
      assign words[WIDTH*c +: WIDTH] = cells[address[ADDRESS*c +: ADDRESS]];
    end
  endgenerate
`else
  reg [WIDTH-1:0] cells [0:(1<<ADDRESS)-1];
  integer i;
  initial for (i = 0; i < 1 << ADDRESS; i = i + 1) cells[i] = {WIDTH{1'b0}};
  always @(posedge clk) if (write) cells[address[ADDRESS-1:0]] <= data;
  generate
    for (c = 0; c < COPIES; c = c + 1) begin : copy
      assign words[WIDTH*c +: WIDTH] = cells[address[ADDRESS*c +: ADDRESS]];
    end
  endgenerate
`endif
`endif
endmodule
"""


class LutStore(wiring.Component):
    """Memory in LUTs with a common address for reading and writing, in several copies.

    Cost: with 32 words, half a LUT for each bit of a word and copy. Holds zeros at first.
    """

    write: Signal  #: in: write `data` to all copies, whose addresses must be equal then
    address: Signal  #: in: of each copy, copy 0 lowest
    data: Signal  #: in: the word to write; it is read from the next cycle on
    words: Signal  #: out: what each copy holds at its address, in the same cycle

    def __init__(self, width: int, address: int = 5, copies: int = 1) -> None:
        if width < 1 or not 1 <= address <= 5 or copies < 1:
            raise ValueError(
                f"width {width}, address {address}, copies {copies}: at least 1 each, and an "
                "address of at most 5 bits, as a LUT has"
            )
        self.width, self.bits, self.copies = width, address, copies
        super().__init__(
            {
                "write": In(1),
                "address": In(address * copies),
                "data": In(width),
                "words": Out(width * copies),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        bits, width = self.bits, self.width
        if isinstance(platform, ExportPlatform):
            instantiate(
                m, platform, "store", "da_store", _STORE,
                parameters={"WIDTH": width, "ADDRESS": bits, "COPIES": self.copies},
                inputs={"write": self.write, "address": self.address, "data": self.data},
                outputs={"words": self.words},
            )  # fmt: skip
            return m
        m.submodules.memory = store = memory.Memory(shape=unsigned(width), depth=1 << bits, init=[])
        write = store.write_port()
        m.d.comb += [
            write.addr.eq(self.address[:bits]),
            write.data.eq(self.data),
            write.en.eq(self.write),
        ]
        for copy in range(self.copies):
            read = store.read_port(domain="comb")
            m.d.comb += [
                read.addr.eq(self.address[bits * copy : bits * (copy + 1)]),
                self.words[width * copy : width * (copy + 1)].eq(read.data),
            ]
        return m
