# SPDX-License-Identifier: Apache-2.0
"""Distributed arithmetic in the 4-bit formats, and how it spreads lanes over tables."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from amaranth.sim import Simulator

from lutvar.contract.accelerator import LANES
from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import GROUP
from lutvar.hw.matrix.da_design import DaDesign
from lutvar.hw.matrix.da_table import LutStore
from lutvar.hw.verilog import export_verilog
from support.hw import verilated_unit
from support.hw.da import (
    CASES,
    check_extremes_and_single_lanes,
    check_random_operands_at_any_pace,
    check_uniform_operands_back_to_back,
    design,
)


@pytest.mark.verilator
def test_extremes_and_single_lanes() -> None:
    check_extremes_and_single_lanes("fp4")


@pytest.mark.verilator
def test_uniform_operands_back_to_back() -> None:
    check_uniform_operands_back_to_back("fp4")


@pytest.mark.verilator
def test_random_operands_at_any_pace() -> None:
    check_random_operands_at_any_pace("fp4")


@pytest.mark.parametrize("engines", [1, 3, 5, 7, 13])
@pytest.mark.parametrize("name", CASES)
def test_design_covers_each_lane_once(name: str, engines: int) -> None:
    d = design(name, engines)
    assert sorted(d.order) == list(range(GROUP))
    assert [t.first for t in d.tables] == list(np.cumsum([0, *(len(t.lanes) for t in d.tables)]))[
        :-1
    ]
    for number, engine in enumerate(d.engines):
        mine = [t for t in d.tables if t.engine == number]
        assert [t.turn for t in mine] == list(range(len(mine)))
        for table, addresses in zip(mine, engine.addresses, strict=True):
            for lane, address in zip(table.lanes, addresses, strict=True):
                word, phase = divmod(address, d.phases)
                assert lane == word * LANES + engine.positions[phase]
    assert d.turns == -(-26 // engines)


def test_design_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="same width"):
        DaDesign(get_format("E2M1"), get_format("INT8"))
    with pytest.raises(ValueError, match="engines"):
        design("fp4", 17)


def store_bench(simulator: Any, unit: LutStore) -> None:
    """Writes all words, reads two copies at different addresses, then writes again."""
    rng = np.random.default_rng(5)

    async def testbench(ctx: Any) -> None:
        assert ctx.get(unit.words) == 0
        for _ in range(2):
            words = rng.integers(0, 1 << unit.width, 32)
            for address, word in enumerate(words):
                ctx.set(unit.address, address * 33)
                ctx.set(unit.data, int(word))
                ctx.set(unit.write, 1)
                await ctx.tick()
            ctx.set(unit.write, 0)
            for a, b in rng.integers(0, 32, (40, 2)):
                ctx.set(unit.address, int(a | b << 5))
                ctx.set(unit.data, int(rng.integers(0, 1 << unit.width)))
                await ctx.tick()
                assert ctx.get(unit.words) == int(words[a] | words[b] << unit.width)

    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


def test_store() -> None:
    unit = LutStore(9, copies=2)
    store_bench(Simulator(unit), unit)


@pytest.mark.verilator
@pytest.mark.parametrize("define", ["", "`define SYNTHESIS\n`define YOSYS\n"])
def test_store_as_verilog(define: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text has one body for Yosys and another for simulators."""
    monkeypatch.setattr(
        verilated_unit, "export_verilog", lambda *args: define + export_verilog(*args)
    )
    unit = LutStore(9, copies=2)
    store_bench(verilated_unit.UnitSimulator(unit, verilated_unit.build_unit(unit)), unit)


_RAM32M16 = """
module RAM32M16 (
  output [1:0] DOA, DOB, DOC, DOD, DOE, DOF, DOG, DOH,
  input [1:0] DIA, DIB, DIC, DID, DIE, DIF, DIG, DIH,
  input [4:0] ADDRA, ADDRB, ADDRC, ADDRD, ADDRE, ADDRF, ADDRG, ADDRH, input WE, WCLK
);
  reg [15:0] m [0:31];
  integer i;
  initial for (i = 0; i < 32; i = i + 1) m[i] = 0;
  always @(posedge WCLK) if (WE) m[ADDRH] <= {DIH, DIG, DIF, DIE, DID, DIC, DIB, DIA};
  assign DOA = m[ADDRA][1:0], DOB = m[ADDRB][3:2], DOC = m[ADDRC][5:4], DOD = m[ADDRD][7:6];
  assign DOE = m[ADDRE][9:8], DOF = m[ADDRF][11:10], DOG = m[ADDRG][13:12], DOH = m[ADDRH][15:14];
endmodule
module testbench;
  reg clk = 0, write = 0;
  reg [9:0] address = 0;
  reg [20:0] data = 0;
  wire [41:0] words;
  integer n, seed;
  lutvar_unit unit (
    .clk(clk), .rst(1'b0), .write(write), .address(address), .data(data), .words(words)
  );
  initial begin
    seed = 3;
    for (n = 0; n < 400; n = n + 1) begin
      write = $random(seed);
      data = $random(seed);
      address = $random(seed);
      if (write) address[9:5] = address[4:0];
      #1 $display("%h", words);
      clk = 1; #1 clk = 0;
    end
  end
endmodule
"""


@pytest.mark.icarus
def test_the_primitive_for_synthesis_is_the_memory_of_simulation(tmp_path: Path) -> None:
    """Vivado gets RAM32M16, whose eight addresses are one; here its data sheet is the model."""
    unit = LutStore(21, copies=2)
    (tmp_path / "unit.v").write_text(export_verilog(unit, "lutvar_unit") + _RAM32M16)
    shown = []
    for macro in ([], ["-DSYNTHESIS"]):
        subprocess.run(
            ["iverilog", "-g2005", *macro, "-s", "testbench", "-o", "x.vvp", "unit.v"],
            cwd=tmp_path, check=True,
        )  # fmt: skip
        done = subprocess.run(["vvp", "x.vvp"], cwd=tmp_path, check=True, capture_output=True)
        shown.append(done.stdout)
    assert shown[0] == shown[1] and len(set(shown[0].split())) > 100
