# SPDX-License-Identifier: Apache-2.0
"""Shared definitions: one module for equal units, equal behaviour in both forms, stable text."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Fragment, Module, Mux, ResetSignal, Signal, unsigned
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from lutvar.hw.port_types import View
from lutvar.hw.units.memory import ChunkMemory, SharedMemory
from lutvar.hw.verilog import (
    ExportPlatform,
    export_verilog,
    instantiate,
    place,
    reset_stage,
)


class Step(wiring.Component):
    """`y` grows by a table entry of the sum of both inputs; constants, and a default."""

    pair: View
    y: Signal
    peak: Signal

    def __init__(self, width: int = 8) -> None:
        self.width = width
        pair = data.ArrayLayout(unsigned(4), 2)
        super().__init__({"pair": In(pair), "y": Out(width), "peak": Out(4)})

    def elaborate(self, platform):
        m = Module()
        add, peak = Signal(4), Signal(4)
        with m.Switch(self.pair[0] + self.pair[1]):
            for index in range(3, 12):
                with m.Case(index):
                    m.d.comb += add.eq(index * 5 % 13)
            with m.Default():
                m.d.comb += add.eq(1)
        place(m, platform, "maximum", unit := Maximum(), "test_maximum")
        m.d.comb += [unit.pair.eq(self.pair), peak.eq(unit.y), self.peak.eq(peak)]
        m.d.sync += self.y.eq(self.y + add)
        return m


class Maximum(wiring.Component):
    """Purely combinational: uses neither clock nor reset."""

    pair: In(data.ArrayLayout(unsigned(4), 2))
    y: Out(4)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.pair[0] > self.pair[1]):
            m.d.comb += self.y.eq(self.pair[0])
        with m.Else():
            m.d.comb += self.y.eq(self.pair[1])
        return m


class Row(wiring.Component):
    """Three steps with different inputs, and memories."""

    x: Signal
    y: Signal
    peaks: Signal
    word: Signal
    address: Signal
    shared: Signal

    def __init__(self, module: str = "test_step") -> None:
        self.module = module
        super().__init__(
            {
                "x": In(8), "y": Out(24), "peaks": Out(12), "word": Out(12), "address": In(2),
                "shared": Out(16),
            }
        )  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        for k in range(3):
            step = Step()
            place(m, platform, f"step_{k}", step, self.module)
            m.d.comb += [
                step.pair[0].eq(self.x[:4] + k),
                step.pair[1].eq(self.x[4:]),
                self.y[8 * k : 8 * k + 8].eq(step.y),
                self.peaks[4 * k : 4 * k + 4].eq(step.peak),
            ]
        m.submodules.memory = memory = ChunkMemory(12, 5, 4)
        m.d.comb += [
            memory.write_en.eq(1),
            memory.write_addr.eq(self.x),
            memory.write_chunk.eq(self.x[2:4] & ~self.x[4:6]),
            memory.write_data.eq(self.x[3:]),
            # Never what is being written.
            memory.read_addr.eq(self.address ^ (self.address == self.x[:2])),
            self.word.eq(memory.read_data),
        ]
        m.submodules.shared = shared = SharedMemory(8, 3)
        m.d.comb += [
            shared.addr.eq(Mux(self.x[:2] == 3, 0, self.x[:2])),
            shared.write.eq(self.x[2]),
            shared.write_data.eq(self.x),
            # Never what is being written.
            shared.other_addr.eq(Mux(shared.addr == 0, 1, 0)),
            self.shared.eq(Cat(shared.data, shared.other_data)),
        ]
        return m


def inputs(cycles):
    for cycle in range(cycles):
        yield (cycle * 73 + 5) % 256, (cycle * 3 + 1) % 4


def simulated(cycles):
    """What Amaranth's simulator shows after each cycle: y, peaks, word, shared."""
    dut = Row()
    rows = []

    async def testbench(ctx):
        for x, address in inputs(cycles):
            ctx.set(dut.x, x)
            ctx.set(dut.address, address)
            await ctx.tick()
            rows.append(tuple(map(ctx.get, (dut.y, dut.peaks, dut.word, dut.shared))))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return rows


def modules(verilog):
    return re.findall(r"^module (\S+?)\s*[(#]", verilog, flags=re.MULTILINE)


def test_equal_units_become_one_module_with_many_instances():
    text = export_verilog(Row(), "lutvar_row")
    names = modules(text)
    assert len(names) == len(set(names))
    assert {"lutvar_row", "lutvar_test_step", "lutvar_test_maximum"} <= set(names)
    assert {"lutvar_ram_distributed", "lutvar_shared_ram_block"} <= set(names)
    assert all(name.startswith("lutvar_") for name in names)
    assert len(re.findall(r"^\s*lutvar_test_step step_\d", text, flags=re.MULTILINE)) == 3
    assert len(re.findall(r"^\s*lutvar_test_maximum maximum", text, flags=re.MULTILINE)) == 1
    assert "always @*" not in text


@pytest.mark.icarus
def test_export_behaves_like_the_simulator_and_starts_without_x(tmp_path):
    cycles = 100
    show = '$display("%b %b %b %b", y, peaks, word, shared);'
    stimuli = "".join(
        f"    x = {x}; address = {a}; #1 clk = 1; #1 {show} clk = 0;\n" for x, a in inputs(cycles)
    )
    stimulus = f"""
module testbench;
  reg clk = 0, rst = 0;
  reg [7:0] x = 0;
  reg [1:0] address = 0;
  wire [23:0] y;
  wire [11:0] peaks, word;
  wire [15:0] shared;
  lutvar_row row (
    .clk(clk), .rst(rst), .x(x), .address(address), .y(y), .peaks(peaks), .word(word),
    .shared(shared)
  );
  initial begin
    #1 {show}
{stimuli}    $finish;
  end
endmodule
"""
    (tmp_path / "row.v").write_text(export_verilog(Row(), "lutvar_row"))
    (tmp_path / "testbench.v").write_text(stimulus)
    subprocess.run(
        ["iverilog", "-g2012", "-s", "testbench", "-o", "testbench", "row.v", "testbench.v"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    lines = subprocess.run(
        ["vvp", "testbench"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    lines = [line for line in lines if re.fullmatch(r"[01xz ]+", line)]
    assert "x" not in lines[0], "something is X before the first clock edge"
    got = [tuple(int(field, 2) for field in line.split()) for line in lines[1:]]
    assert got == simulated(cycles)


def test_text_is_the_same_in_every_process():
    code = (
        "from hw.test_verilog import Row\n"
        "from lutvar.hw.verilog import export_verilog\n"
        "import sys; sys.stdout.write(export_verilog(Row(), 'lutvar_row'))"
    )
    root = Path(__file__).parents[2]
    texts = set()
    for seed in ("1", "2"):
        environment = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(root), str(root / "tests")]),
        }
        texts.add(
            subprocess.run(
                [sys.executable, "-c", code], env=environment, check=True, capture_output=True
            ).stdout
        )
    assert len(texts) == 1
    assert str(root).encode() not in texts.pop()


def test_unequal_units_must_not_share_a_name():
    platform = ExportPlatform()
    units = [Step(8), Step(8), Step(9), Maximum()]
    for unit in units:
        Fragment.get(unit, platform)  # Amaranth warns of units that nobody elaborates
    platform.register("lutvar_thing", units[0])
    platform.register("lutvar_thing", units[1])
    for other in units[2:]:
        with pytest.raises(ValueError, match=r"lutvar_thing is Step.*give it another module name"):
            platform.register("lutvar_thing", other)
    assert platform.registry["lutvar_thing"] is units[0]


class Counter(wiring.Component):
    """Counts from reset on."""

    y: Out(4)

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.y.eq(self.y + 1)
        return m


class Pair(wiring.Component):
    """A counter of its own, one in a plain part, one in a spread part."""

    y: Out(12)

    def elaborate(self, platform):
        m = Module()
        own = Signal(4)
        m.d.sync += own.eq(own + 1)
        plain, apart = Counter(), Counter()
        place(m, platform, "plain", plain, "test_plain")
        place(m, platform, "apart", apart, "test_apart", spread=True)
        m.d.comb += self.y.eq(Cat(own, plain.y, apart.y))
        return m


class Tree(wiring.Component):
    """Two equal units behind stages of their own, and a counter in the domain itself."""

    y: Out(28)

    def elaborate(self, platform):
        m = Module()
        parts = []
        for name in ("a", "b"):
            unit = Pair()
            stage = reset_stage(m, platform, "sync", ResetSignal(), f"reset_{name}")
            place(m, platform, name, unit, "test_pair", spread=True, reset=stage)
            parts.append(unit.y)
        late = reset_stage(m, platform, "sync", stage, "late")
        own = Signal(4, reset_less=True)
        m.d.sync += own.eq(Mux(late, 0, own + 1))
        m.d.comb += self.y.eq(Cat(own, *parts))
        return m


@pytest.mark.icarus
def test_all_leaves_of_the_reset_tree_fall_in_the_same_cycle(tmp_path):
    verilog = export_verilog(Tree(), "lutvar_tree")
    # Two stages in the top and a third one for `late`; a leaf for each spread definition.
    assert len(re.findall(r"^  lutvar_reset_stage ", verilog, flags=re.MULTILINE)) == 5
    (tmp_path / "tree.v").write_text(verilog)
    (tmp_path / "testbench.v").write_text("""
module testbench;
  reg clk = 0, rst = 0;
  wire [27:0] y;
  integer i;
  lutvar_tree tree (.clk(clk), .rst(rst), .y(y));
  initial begin
    for (i = 0; i < 40; i = i + 1) begin
      rst = i == 3 || (i > 11 && i < 15);
      #1 clk = 1; #1 clk = 0;
      $display("%h", y);
    end
    $finish;
  end
endmodule
""")
    subprocess.run(
        ["iverilog", "-g2005", "-s", "testbench", "-o", "testbench", "tree.v", "testbench.v"],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    done = subprocess.run(["vvp", "testbench"], cwd=tmp_path, check=True, capture_output=True)
    words = [line for line in done.stdout.decode().split() if re.fullmatch(r"[0-9a-fx]{7}", line)]
    assert len(words) == 40 and all(len(set(word)) == 1 for word in words), words
    # One cycle of reset at the port is one at the leaves; three are three.
    digits = "".join(word[0] for word in words)
    assert digits.startswith("001230123456780001234567"), digits


def test_a_reset_comes_through_as_many_registers_everywhere():
    platform, unit = ExportPlatform(), Counter()
    Fragment.get(unit, platform)
    platform.register("lutvar_thing", unit, spread=True)
    with pytest.raises(ValueError, match="lutvar_thing is spread in one place only"):
        platform.register("lutvar_thing", unit)
    platform.spreading = False  # inside a definition that takes its reset as it comes
    with pytest.raises(ValueError, match="lutvar_other is spread inside one that is not"):
        platform.register("lutvar_other", unit, spread=True)


def test_names_must_be_unique_and_prefixed():
    top = Row()
    Fragment.get(top, ExportPlatform())
    with pytest.raises(ValueError, match="starts with 'lutvar_'"):
        export_verilog(top, "row")
    with pytest.raises(ValueError, match="lutvar_row"):
        export_verilog(Row(module="row"), "lutvar_row")


def test_a_text_must_not_be_redefined():
    m, platform = Module(), ExportPlatform()
    ports = {"parameters": {}, "inputs": {}, "outputs": {}}
    instantiate(m, platform, "a", "thing", "module lutvar_thing; endmodule", **ports)
    instantiate(m, platform, "b", "thing", "module lutvar_thing; endmodule", **ports)
    assert list(platform.texts) == ["lutvar_thing"]
    with pytest.raises(ValueError, match="lutvar_thing has another definition"):
        instantiate(m, platform, "c", "thing", "module lutvar_thing (); endmodule", **ports)
    Fragment.get(m, platform)
