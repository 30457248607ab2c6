# SPDX-License-Identifier: Apache-2.0
"""cocotb testbenches on the exported Verilog of a tiny accelerator, in each simulator installed.

`-m icarus` or `-m verilator` chooses one simulator. `lutvar sim` runs more of them, and on larger
accelerators.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lutvar.cli.inspecting import inspect
from lutvar.sim.runner import (
    TESTBENCHES,
    RunError,
    default_config,
    ports_of,
    run_on,
    run_testbenches,
    tiny_accelerator,
)

pytest.importorskip("cocotb", reason="cocotb is not installed: pip install lutvar[sim]")
pytest.importorskip("cocotbext.axi", reason="cocotbext-axi is not installed")

from lutvar.hw.accelerator.export import export

#: Benches that run here; one that disappears without notice is a failure.
EXPECTED = {
    "registers": 5, "programs": 5, "errors": 23, "weights": 4, "bounds": 17, "resets": 9,
    "wrong_testbenches": 3,
}  # fmt: skip
#: All but the long ones and variants.
ON_VERILATOR = (
    r"registers\.|weights\.|resets\.|wrong_testbenches\.|every_unit|serial|passes_of"
    r"|errors\.(bad|dead|last|reset|silent|memory_refuses/port=\w+/response=2)"
    r"|bounds\.(transfer|burst|nothing|unsolicited|wrong_last/port=\w+/beats=1)"
)
#: Icarus knows X and runs about 40 cycles a second.
ON_ICARUS = r"control_and_interrupt|every_unit$"


def _report(rows: list) -> str:
    return "\n".join(f"{r.sim} {r.bench}: {r.message or 'passed'}" for r in rows if not r.passed)


@pytest.fixture(scope="module")
def verilog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_accelerator(), tmp_path_factory.mktemp("accelerator")).verilog


@pytest.mark.verilator
def test_benches_pass_on_verilator(verilog: Path, tmp_path: Path) -> None:
    """One build for all of them, and for benches that must fail on it."""
    modules = [
        *(f"lutvar.sim.testbenches.{name}" for name in TESTBENCHES),
        "support.sim.wrong_testbenches",
    ]
    rows = run_on(
        "verilator", verilog, tiny_accelerator(), tmp_path, modules=modules,
        test_filter=ON_VERILATOR,
    )  # fmt: skip
    counts = {name: sum(r.bench.startswith(f"{name}.") for r in rows) for name in EXPECTED}
    assert counts == EXPECTED
    right = [row for row in rows if not row.bench.startswith("wrong_testbenches")]
    assert all(row.passed for row in right), _report(right)
    wrong = {r.bench.split(".")[1]: r.message for r in rows if r not in right and not r.passed}
    assert "bytes of IO differ; the first is 0x1805" in wrong["another_bit_is_expected"]
    assert "differ" in wrong["another_input_than_that_of_the_golden_model"]
    assert "ERROR is 29" in wrong["the_memory_refuses"]
    report = json.loads((tmp_path / "results.json").read_text())
    assert len(report["benches"]) == len(rows) and report["simulator"] == "verilator"
    assert inspect(tmp_path / "results.json").kind == "results of `lutvar sim`"


@pytest.mark.verilator
def test_two_weight_ports_on_verilator(tmp_path: Path) -> None:
    """Registers, programs, and the second port's errors, of a build that has it."""
    config = tiny_accelerator("fp6")
    assert config.weight_ports == 2
    verilog = export(config, tmp_path).verilog
    rows = run_on(
        "verilator", verilog, config, tmp_path / "sim",
        modules=[f"lutvar.sim.testbenches.{name}" for name in TESTBENCHES],
        test_filter=r"registers\.|weights\.|every_unit|image_matches|bad_|silent_memory/port=r_wgt"
        r"|(memory_refuses|transfer_outside|wrong_last)/port=r_wgt\w*(/response=2|/beats=3|$)",
    )  # fmt: skip
    assert all(row.passed for row in rows), _report(rows)
    names = " ".join(row.bench for row in rows)
    assert names.count("port=r_wgt1") == 4 and names.count("every_unit") == 3, names


@pytest.mark.icarus
def test_nothing_is_unknown_on_icarus(verilog: Path, tmp_path: Path) -> None:
    """Every unit works, bit by bit, and no output is X after the reset."""
    rows = run_testbenches("icarus", verilog=verilog, build_dir=tmp_path, test_filter=ON_ICARUS)
    assert all(row.passed for row in rows), _report(rows)
    assert len(rows) == 2
    assert (tmp_path / "icarus-tiny-fp4" / "results.json").exists()


def _stand_in(unknown: bool) -> str:
    """An accelerator whose control port answers everything with OKAY and 0."""
    lines, constants = [], []
    answers = {
        "s_axi_control_awready": "1'b1", "s_axi_control_wready": "1'b1",
        "s_axi_control_arready": "1'b1", "s_axi_control_bvalid": "write",
        "s_axi_control_rvalid": "read",
    }  # fmt: skip
    if unknown:
        answers["s_axi_control_rdata"] = "32'bx"
    for port in ports_of(tiny_accelerator()):
        lines.append(f"{port['direction']} wire [{int(str(port['width'])) - 1}:0] {port['name']}")
        if port["direction"] == "output":
            constants.append(f"assign {port['name']} = {answers.get(str(port['name']), 0)};")
    return f"""module top({", ".join(lines)});
reg write = 0, read = 0;
always @(posedge ap_clk) begin
    if (s_axi_control_wvalid) write <= 1; else if (s_axi_control_bready) write <= 0;
    if (s_axi_control_arvalid) read <= 1; else if (s_axi_control_rready) read <= 0;
end
{" ".join(constants)}
endmodule
"""


@pytest.mark.icarus
def test_registers_that_err_fail_the_benches(tmp_path: Path) -> None:
    verilog = tmp_path / "stand_in.v"
    verilog.write_text(_stand_in(unknown=False))
    rows = run_on(
        "icarus", verilog, tiny_accelerator(), tmp_path / "sim",
        modules=["lutvar.sim.testbenches.registers"], test_filter="reset_values|access|control",
    )  # fmt: skip
    assert [row.passed for row in rows] == [False] * 3
    assert all(row.message for row in rows)


@pytest.mark.icarus
def test_variables_of_another_cocotb_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter or a module list in the caller's shell drops no testbench."""
    for name, value in {
        "COCOTB_TEST_FILTER": "reset_values", "COCOTB_TESTCASE": "reset_values",
        "COCOTB_TEST_MODULES": "nothing", "COCOTB_TOPLEVEL": "other", "TESTCASE": "reset_values",
        "COCOTB_RESULTS_FILE": str(tmp_path / "elsewhere.xml"), "PYTHONOPTIMIZE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    verilog = tmp_path / "stand_in.v"
    verilog.write_text(_stand_in(unknown=False))
    rows = run_on(
        "icarus", verilog, tiny_accelerator(), tmp_path / "sim",
        modules=["lutvar.sim.testbenches.registers"],
    )  # fmt: skip
    assert len(rows) == EXPECTED["registers"]
    assert not next(row for row in rows if "reset_values" in row.bench).passed  # assertions work


@pytest.mark.icarus
def test_a_folder_may_be_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the default folder of `lutvar coverage` is; the simulator runs inside it."""
    monkeypatch.chdir(tmp_path)
    Path("stand_in.v").write_text(_stand_in(unknown=False), encoding="utf-8")
    rows = run_on(
        "icarus", Path("stand_in.v"), tiny_accelerator(), Path("sim"),
        modules=["lutvar.sim.testbenches.registers"], test_filter="reset_values",
    )  # fmt: skip
    assert len(rows) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"stand_in.v", "sim"}


@pytest.mark.icarus
def test_testbenches_that_cannot_be_loaded_are_an_error(tmp_path: Path) -> None:
    """The simulator ends in peace then, without results."""
    verilog = tmp_path / "stand_in.v"
    verilog.write_text(_stand_in(unknown=False))
    with pytest.raises(RunError, match=r"stopped without results(?s:.)*no_such_module"):
        run_on(
            "icarus", verilog, tiny_accelerator(), tmp_path / "sim",
            modules=["lutvar.sim.testbenches.no_such_module"],
        )  # fmt: skip


@pytest.mark.icarus
def test_an_unknown_output_fails_the_benches(tmp_path: Path) -> None:
    verilog = tmp_path / "stand_in.v"
    verilog.write_text(_stand_in(unknown=True))
    rows = run_on(
        "icarus", verilog, tiny_accelerator(), tmp_path / "sim",
        modules=["lutvar.sim.testbenches.registers"], test_filter="channel_order",
    )  # fmt: skip
    assert [row.passed for row in rows] == [False]
    assert "s_axi_control_rdata is X" in rows[0].message


@pytest.mark.parametrize(
    "sim",
    [
        pytest.param("verilator", marks=pytest.mark.verilator),
        pytest.param("icarus", marks=pytest.mark.icarus),
    ],
)
def test_verilog_that_does_not_build_is_reported(sim: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.v"
    broken.write_text("module top(input wire ap_clk);\n  missing unit();\nendmodule\n")
    with pytest.raises(RunError, match=r"could not build broken\.v"):
        run_on(
            sim, broken, tiny_accelerator(), tmp_path / "sim",  # type: ignore[arg-type]
            modules=["lutvar.sim.testbenches.registers"],
        )  # fmt: skip


def test_defaults() -> None:
    assert default_config("verilator").name == "small-fp4"
    assert default_config("icarus") == tiny_accelerator()
    assert tiny_accelerator("fp6").quant_config.code_bits == 6
