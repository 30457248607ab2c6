# SPDX-License-Identifier: Apache-2.0
"""Storage of the engine: wide words written in chunks, and queues."""

from typing import Any

from amaranth.hdl import Const, Module, Mux, Signal, Value, unsigned
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.hw.port_types import Stream
from lutvar.hw.verilog import ExportPlatform, instantiate

from .count import Level
from .ram_style import RamStyle, ram_attributes, ram_style

#: Amaranth writes the initial value of every word, which for a bank is most of the whole file.
_RAM = """\
// Memory with words of WIDTH bits, written in chunks and read whole, two registers after
// the address. A word is not read in the cycle in which it is written: primitives differ in what
// they return then, so simulation returns neither the old bits nor the new ones.
module lutvar_ram_STYLE #(
  parameter WIDTH = 1, parameter CHUNK = 1, parameter DEPTH = 2,
  parameter ADDRESS = 1, parameter SELECT = 1
) (
  input clk,
  input write_en,
  input [ADDRESS-1:0] write_addr,
  input [SELECT-1:0] write_chunk,
  input [CHUNK-1:0] write_data,
  input [ADDRESS-1:0] read_addr,
  output [WIDTH-1:0] read_data
);
  localparam CHUNKS = (WIDTH + CHUNK - 1) / CHUNK;
  genvar c;
  generate
    for (c = 0; c < CHUNKS; c = c + 1) begin : part
      localparam LOW = c * CHUNK;
      localparam BITS = WIDTH - LOW < CHUNK ? WIDTH - LOW : CHUNK;
      localparam [SELECT-1:0] NUMBER = c;
      (* ram_style = "STYLE" *) reg [BITS-1:0] words [0:DEPTH-1];
      reg [BITS-1:0] stage;
      reg [BITS-1:0] out;
      integer i;
      initial begin
        for (i = 0; i < DEPTH; i = i + 1) words[i] = {BITS{1'b0}};
        stage = {BITS{1'b0}};
        out = {BITS{1'b0}};
      end
      always @(posedge clk) begin
        if (write_en && write_chunk == NUMBER) words[write_addr] <= write_data[BITS-1:0];
        stage <= words[read_addr];
`ifndef SYNTHESIS
        if (write_en && write_chunk == NUMBER && write_addr == read_addr)
          stage <= ~words[read_addr];
`endif
        out <= stage;
      end
      assign read_data[LOW +: BITS] = out;
    end
  endgenerate
endmodule
"""

READ_LATENCY = 2  #: cycles from `read_addr` to `read_data`: the memory and its output register


class ChunkMemory(wiring.Component):
    """A memory with words of any width, written one chunk at a time and read whole.

    A word that is written in the cycle in which it is read gives undefined bits (in simulation of
    the Verilog wrong ones): banks keep readers and writers apart. Cost: block or distributed RAM of
    `width` x `depth`, and a register of `width` bits.

    Args:
        style: of the memory; default: by its depth (`ram_style`), never UltraRAM.
    """

    write_en: Signal  #: in: write `chunk` bits
    write_addr: Signal  #: in: the word
    write_chunk: Signal  #: in: which chunk of it; chunk 0 is the least significant
    write_data: Signal  #: in: the chunk; bits of the last one beyond `width` are ignored
    read_addr: Signal  #: in: a new address in each cycle
    read_data: Signal  #: out: the word, `READ_LATENCY` cycles later

    def __init__(
        self, width: int, chunk: int, depth: int, *, style: RamStyle | None = None
    ) -> None:
        if width < 1 or chunk < 1 or depth < 1:
            raise ValueError(
                f"width {width}, chunk {chunk} and depth {depth} must all be at least 1"
            )
        self.width, self.chunk, self.depth = width, chunk, depth
        self.style = style or ram_style(depth)
        self.chunks = -(-width // chunk)
        super().__init__(
            {
                "write_en": In(1),
                "write_addr": In(range(depth)),
                "write_chunk": In(range(self.chunks)),
                "write_data": In(chunk),
                "read_addr": In(range(depth)),
                "read_data": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if isinstance(platform, ExportPlatform):
            ports = {name: getattr(self, name) for name in self.signature.members}
            output = {"read_data": ports.pop("read_data")}
            # Verilog has no vectors of no bits.
            ports = {name: value if len(value) else Const(0, 1) for name, value in ports.items()}
            instantiate(
                m, platform, "ram", f"ram_{self.style.value}",
                _RAM.replace("STYLE", self.style.value),
                parameters={
                    "WIDTH": self.width, "CHUNK": self.chunk, "DEPTH": self.depth,
                    "ADDRESS": len(ports["read_addr"]), "SELECT": len(ports["write_chunk"]),
                },
                inputs=ports, outputs=output,
            )  # fmt: skip
            return m
        single = self.chunks == 1
        stored = self.width if single else self.chunk * self.chunks
        m.submodules.memory = store = memory.Memory(
            shape=unsigned(stored), depth=self.depth, init=[]
        )
        write = store.write_port(granularity=None if single else self.chunk)
        read = store.read_port(domain="sync")
        register = Signal(self.width, reset_less=True)
        m.d.comb += [
            write.addr.eq(self.write_addr),
            write.data.eq(self.write_data if single else self.write_data.replicate(self.chunks)),
            read.addr.eq(self.read_addr),
            self.read_data.eq(register),
        ]
        if single:
            m.d.comb += write.en.eq(self.write_en)
        else:
            m.d.comb += write.en.eq(Mux(self.write_en, 1 << self.write_chunk, 0))
        m.d.sync += register.eq(read.data)
        return m


#: As the UltraRAM with two ports is described: a port that writes does not change what it read.
#: UltraRAM starts with zeros and takes no other initial value, so `initial` is for simulators.
_SHARED_RAM = """\
// Memory with a port that reads or writes and a port that reads, two registers after the address.
// When one port writes the word that the other one reads, primitives differ in what is read, so
// simulation returns neither the old word nor the new one.
module lutvar_shared_ram_STYLE #(
  parameter WIDTH = 1, parameter DEPTH = 2, parameter ADDRESS = 1
) (
  input clk,
  input write,
  input [ADDRESS-1:0] addr,
  input [WIDTH-1:0] write_data,
  output [WIDTH-1:0] data,
  input [ADDRESS-1:0] other_addr,
  output [WIDTH-1:0] other_data
);
  (* ram_style = "STYLE" *) reg [WIDTH-1:0] words [0:DEPTH-1];
  reg [WIDTH-1:0] stage;
  reg [WIDTH-1:0] out;
  reg [WIDTH-1:0] other_stage;
  reg [WIDTH-1:0] other_out;
`ifndef SYNTHESIS
  integer i;
  initial begin
    for (i = 0; i < DEPTH; i = i + 1) words[i] = {WIDTH{1'b0}};
    stage = {WIDTH{1'b0}};
    out = {WIDTH{1'b0}};
    other_stage = {WIDTH{1'b0}};
    other_out = {WIDTH{1'b0}};
  end
`endif
  always @(posedge clk) begin
    if (write) words[addr] <= write_data;
    else stage <= words[addr];
    out <= stage;
  end
  always @(posedge clk) begin
    other_stage <= words[other_addr];
`ifndef SYNTHESIS
    if (write && addr == other_addr) other_stage <= ~words[other_addr];
`endif
    other_out <= other_stage;
  end
  assign data = out;
  assign other_data = other_out;
endmodule
"""


class SharedMemory(wiring.Component):
    """A memory with two ports: one reads or writes, the other one reads.

    A word that is written in the cycle in which the second port reads it gives undefined bits (in
    simulation of the Verilog wrong ones). Cost: `width` / 72 UltraRAM for each 4096 words, with
    their output registers and without further logic; a small memory (below
    `ram_style.ULTRA_WORDS`) is in block RAM.

    Args:
        style: of the memory; default: by its depth.
    """

    addr: Signal  #: in: word that the first port reads or writes
    write: Signal  #: in: write in this cycle, or else read
    write_data: Signal  #: in: the word to write
    #: out: what was read, `READ_LATENCY` cycles later; undefined for a cycle that wrote
    data: Signal
    other_addr: Signal  #: in: word that the second port reads; a new one in each cycle
    other_data: Signal  #: out: the word, `READ_LATENCY` cycles later

    def __init__(self, width: int, depth: int, *, style: RamStyle | None = None) -> None:
        self.width, self.depth = width, depth
        style = style or ram_style(depth, ultra=True)
        # LUTs have one port that reads and writes, and one that reads, but no output registers.
        self.style = RamStyle.ULTRA if style is RamStyle.ULTRA else RamStyle.BLOCK
        super().__init__(
            {
                "addr": In(range(depth)),
                "write": In(1),
                "write_data": In(width),
                "data": Out(width),
                "other_addr": In(range(depth)),
                "other_data": Out(width),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        if isinstance(platform, ExportPlatform):
            ports = {name: getattr(self, name) for name in self.signature.members}
            outputs = {name: ports.pop(name) for name in ("data", "other_data")}
            style = self.style.value
            instantiate(
                m, platform, "ram", f"shared_ram_{style}", _SHARED_RAM.replace("STYLE", style),
                parameters={
                    "WIDTH": self.width, "DEPTH": self.depth, "ADDRESS": len(self.addr)
                },
                inputs=ports, outputs=outputs,
            )  # fmt: skip
            return m
        m.submodules.memory = store = memory.Memory(
            shape=unsigned(self.width), depth=self.depth, init=[]
        )
        write = store.write_port()
        m.d.comb += [
            write.addr.eq(self.addr),
            write.data.eq(self.write_data),
            write.en.eq(self.write),
        ]
        for address, read_data, enable in (
            (self.addr, self.data, ~self.write),
            (self.other_addr, self.other_data, Const(1)),
        ):
            port = store.read_port(domain="sync")
            register = Signal(self.width, reset_less=True)
            m.d.comb += [port.addr.eq(address), port.en.eq(enable), read_data.eq(register)]
            m.d.sync += register.eq(port.data)
        return m


class Fifo(wiring.Component):
    """Queue between two streams.

    `depth`, at least 2, counts all places, the output register included. Latency 2 cycles; one
    item in each cycle when `depth` is at least 4. `i.ready` and `o.valid` are registers.
    """

    i: Stream  #: in: items; `ready` is a register
    o: Stream  #: out: the same items in order; `valid` is a register

    def __init__(self, shape: Any, depth: int) -> None:
        if depth < 2:
            raise ValueError(f"depth is {depth}; it must be at least 2")
        self.depth = depth
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        places = self.depth - 1  # of the memory
        push = Signal()
        pop = Signal()
        level = Level(m, "level", places, push, pop)
        m.d.comb += [
            push.eq(self.i.valid & level.room),
            pop.eq(level.some & (~self.o.valid | self.o.ready)),
            self.i.ready.eq(level.room),
            Value.cast(self.o.payload).eq(self._stored(m, places, push, pop)),
        ]
        m.d.sync += self.o.valid.eq(level.some | (self.o.valid & ~self.o.ready))
        return m

    def _stored(self, m: Module, places: int, push: Value, pop: Value) -> Value:
        """Keep a word in each cycle of `push`; the oldest one, from the cycle after `pop`."""
        width = len(Value.cast(self.i.payload))
        if places == 1:
            stored, shown = (Signal(width, name=n, reset_less=True) for n in ("stored", "shown"))
            with m.If(push):
                m.d.sync += stored.eq(self.i.payload)
            with m.If(pop):
                m.d.sync += shown.eq(stored)
            return shown
        # It is never read at an address that is being written, and has no transparent port.
        m.submodules.storage = storage = memory.Memory(
            shape=unsigned(width), depth=places, init=[], attrs=ram_attributes(places)
        )
        write, read = storage.write_port(), storage.read_port(domain="sync")
        m.d.comb += [write.en.eq(push), write.data.eq(self.i.payload), read.en.eq(pop)]
        for port, moves in ((write, push), (read, pop)):
            with m.If(moves):
                m.d.sync += port.addr.eq(Mux(port.addr == places - 1, 0, port.addr + 1))
        return read.data
