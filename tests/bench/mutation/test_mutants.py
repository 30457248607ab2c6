# SPDX-License-Identifier: Apache-2.0
"""What the mutation campaign changes: legal Verilog, the original without the plusarg."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lutvar.bench.mutation import campaign
from lutvar.bench.mutation.mutants import Mutant, list_mutants, with_mutants
from lutvar.bench.mutation.review import Judgement, load_review, reviewed
from lutvar.files import json_text


def test_a_verdict_that_was_cut_is_run_again(tmp_path: Path) -> None:
    """A campaign that was killed while it wrote a line goes on after the lines before."""
    path = tmp_path / "verdicts.jsonl"
    assert campaign.read_verdicts(path) == {}
    verdicts = [campaign.Verdict(n, "programs", "é", 1.0) for n in (4, 7)]
    lines = "".join(json_text(vars(verdict)) + "\n" for verdict in verdicts)
    path.write_text(lines[:-12], encoding="utf-8")
    assert campaign.read_verdicts(path) == {4: verdicts[0]}
    campaign._drop_cut_line(path)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)
    assert campaign.read_verdicts(path) == {4: verdicts[0], 7: verdicts[1]}


#: As the export writes it: one operator in each line, escaped names, nested modules.
VERILOG = r"""// a core
module lutvar_t__top(a, b
, clk, q);
  input [7:0] a;
  wire [7:0] a;
  input [7:0] b;
  wire [7:0] b;
  input clk;
  wire clk;
  output [8:0] q;
  wire [8:0] q;
  wire [7:0] \s$1 ;
  assign \s$1  = a & b;
  lutvar_t__add \adder$3  (
    .clk(clk),
    .x(\s$1 ),
    .y(b),
    .q(q)
  );
endmodule

module lutvar_t__add(x, y, clk, q);
  input [7:0] x;
  wire [7:0] x;
  input [7:0] y;
  wire [7:0] y;
  input clk;
  wire clk;
  output [8:0] q;
  reg [8:0] q = 9'h000;
  wire [8:0] _0_;
  wire _1_;
  wire [8:0] _2_;
  assign _0_ = x + y;
  assign _1_ = y != 8'h07;
  assign _2_ = _1_ ? _0_ : 9'h005;
  reg [8:0] \kept$2  = 9'h003;
  reg [8:0] store [3:0];
  always @(posedge clk)
    if (x[3]) \kept$2  <= 9'h003;
    else if (!_1_) \kept$2 [8:1] <= _0_[7:0];
  always @(posedge clk)
    if (_1_) begin
      store[x[1:0]] <= _2_;
    end
  always @(posedge clk)
    if (x[5])
      q <= store[y[1:0]];
    else q <= \kept$2  ^ _2_;
endmodule
"""
BENCH = """module bench;
  reg [7:0] a = 0, b = 0; reg clk = 0; wire [8:0] q;
  lutvar_t__top dut(.a(a), .b(b), .clk(clk), .q(q));
  integer i, sum;
  initial begin
    sum = 0;
    for (i = 0; i < 200; i = i + 1) begin
      a = i * 37; b = i * 11 + 7; #1 clk = 1; #1 clk = 0;
      sum = sum * 31 + (^q === 1'bx ? 5 : q);
    end
    $display("%0d", sum);
  end
endmodule
"""


def test_equal_seeds_choose_equal_mutants_of_all_modules() -> None:
    mutants = list_mutants(VERILOG, 12, 3)
    assert mutants == list_mutants(VERILOG, 12, 3) != list_mutants(VERILOG, 12, 4)
    assert [m.number for m in mutants] == list(range(1, len(mutants) + 1))
    assert {m.module for m in mutants} == {"lutvar_t__top", "lutvar_t__add"}
    assert {"operator", "condition"} <= {m.mode for m in list_mutants(VERILOG, 40, 3)}


@pytest.mark.parametrize("count", [0, 1 << 16])
def test_impossible_numbers_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="from 1 to 65535"):
        list_mutants(VERILOG, count)


def test_mutants_of_another_file_are_refused() -> None:
    mutant = Mutant(1, "lutvar_t__add", 34, "operator", "x - y", "x + y")
    with pytest.raises(ValueError, match="line 34"):
        with_mutants(VERILOG, [mutant])


@pytest.mark.icarus
def test_each_mutant_differs_and_none_is_the_original(tmp_path: Path) -> None:
    mutants = list_mutants(VERILOG, 60, 5)
    bench, program = tmp_path / "bench.v", tmp_path / "sim.vvp"
    bench.write_text(BENCH)
    sums = []
    for name, text in (("was.v", VERILOG), ("mutants.v", with_mutants(VERILOG, mutants))):
        source = tmp_path / name
        source.write_text(text)
        tool = shutil.which("iverilog")
        assert tool is not None
        subprocess.run([tool, "-g2005", "-o", program, source, bench], check=True)
        numbers = [0] if name == "was.v" else [0, *(m.number for m in mutants)]
        for number in numbers:
            done = subprocess.run(
                ["vvp", "-n", program, f"+lutvar_mutant={number}"], check=True,
                capture_output=True, text=True,
            )  # fmt: skip
            sums.append(int(done.stdout.split()[-1]))
    original, again, *others = sums
    assert original == again, "without the plusarg nothing is changed"
    assert len(others) == len(mutants) > 5
    assert {m.mode for m in mutants} >= {"enable", "hold", "bit"}
    assert original not in others


def test_a_review_takes_equivalent_mutants_out_of_the_share() -> None:
    rows = [
        {"module": "lutvar_t__add", "source": "a", "after": "b ", "check": "bus"},
        {"module": "lutvar_t__add", "source": "c", "after": "d ", "check": ""},
        {"module": "lutvar_t__add", "source": "e", "after": "d", "check": ""},
    ]
    report = {"mutants": 3, "killed": 1, "survived": 2, "rows": rows}
    result = reviewed(report, [Judgement("add", "c", "d", "never 1")])
    assert (result["equivalent"], result["open"], result["share"]) == (1, 1, 0.5)
    assert [row["equivalent"] for row in result["rows"]] == ["", "never 1", ""]


def test_the_review_that_ships_can_be_read() -> None:
    assert all(j.reason for j in load_review())
