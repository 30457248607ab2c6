# SPDX-License-Identifier: Apache-2.0
"""What mutants have to survive: right hardware passes, and units with a fault do not."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from amaranth.lib import wiring

from lutvar.bench.mutation.checks import checks
from lutvar.bench.mutation.crowds import KINDS, Crowd
from lutvar.bench.mutation.mutants import list_mutants, with_mutants
from lutvar.bench.mutation.units import UnitBench, Units, case_of, is_arithmetic, unit_of
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import Opcode
from lutvar.hw.accelerator.export import export
from lutvar.hw.post.lane import GeluLane, HalfLane
from lutvar.hw.post.multiply_add import PortableMultiplyAdd
from lutvar.hw.units.fp16_to_fp32 import Fp16ToFp32
from lutvar.hw.units.fp32_add import Fp32Add
from lutvar.hw.units.fp32_multiply import Fp32Multiply
from lutvar.hw.units.fp32_to_fp16 import Fp32ToFp16
from lutvar.hw.units.rsqrt import Rsqrt
from lutvar.hw.units.scale import ScaleMultiply
from lutvar.hw.verilog import export_verilog
from lutvar.sim.fuzz.bench import Bench
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.contents import BASES, HIGH_BASES, SIZES
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.verilator import build

CONFIG = load_accelerator("small-fp4")
#: Checks that `lutvar fuzz` does not make.
DIRECTED = ("counters", "unsolicited", "unsolicited anywhere", "program outside",
            "outside by records", "high addresses", "crowds", "states", "slow writes",
            "more resets")  # fmt: skip
UNITS: dict[str, Callable[[], wiring.Component]] = {
    "fp32_multiply_24": lambda: Fp32Multiply(24),
    "fp32_add": Fp32Add,
    "fp32_to_fp16": Fp32ToFp16,
    "fp16_to_fp32": Fp16ToFp32,
    "unit_front__statistics__rsqrt": Rsqrt,
    "rows_scale": lambda: ScaleMultiply(16),
    "post_multiply_add": PortableMultiplyAdd,
    "post_gelu_lane": GeluLane,
    "post_half_lane": HalfLane,
}


@pytest.mark.parametrize("opcode", KINDS)
def test_crowds_are_right_programs_of_one_kind(opcode: Opcode) -> None:
    made = Crowd(CONFIG, np.random.default_rng(4), small=True).crowd(opcode, 24)
    count = Counter(item.opcode for item in made.program.instructions)
    # Panels fill memory before FETCH's queue is full; of all others more than a queue can hold.
    assert count[opcode] >= (12 if opcode is Opcode.FETCH else CONFIG.queue + 1)
    Oracle(CONFIG).expected(Step(made.program.encode(), True, made.fills))


def test_high_bases_use_all_bits_above_the_regions() -> None:
    bases = list(HIGH_BASES.values())
    assert sum(base >> 28 for base in bases) == (1 << 36) - 1
    for first in bases:
        for second in (*bases, *BASES.values()):
            assert first == second or abs(first - second) > 1 << 20
    assert all(base % 64 == 0 and base + SIZES[region] < 1 << 64
               for region, base in HIGH_BASES.items())  # fmt: skip


def test_arithmetic_is_told_from_control() -> None:
    for module in ("lutvar_a__fp32_add", "lutvar_a__front_lane__centre", "lutvar_a__rows_scale",
                   "lutvar_a__unit_front__quantizer__maxima"):  # fmt: skip
        assert is_arithmetic(module)
    for module in (
        "lutvar_a__sequencer",
        "lutvar_a__unit_front__quantizer__queue",
        "lutvar_a__unit_post__lanes",
        "lutvar_a__unit_post__lanes__records__quantizer",
    ):
        assert not is_arithmetic(module)  # fmt: skip
    assert unit_of("lutvar_a__front_lane__add") == "lutvar_a__front_lane__add"
    assert unit_of("lutvar_a__post_multiply_add__scale") == "lutvar_a__post_multiply_add"
    assert unit_of("lutvar_a__sequencer") == ""


def _verilog(name: str, unit: wiring.Component) -> str:
    """A unit below a top that has nothing else, as in an export."""
    top = "module lutvar_t__top(clk);\n  input clk;\n  wire clk;\nendmodule\n\n"
    return top + export_verilog(unit, f"lutvar_t__{name}")


def test_every_unit_of_the_exported_verilog_has_the_ports_of_its_case(tmp_path: Path) -> None:
    text = export(CONFIG, tmp_path).verilog.read_text(encoding="utf-8")
    found = {unit_of(name) for name in re.findall(r"^module (\w+)\(", text, re.M)} - {""}
    assert len(found) > 30
    for unit in sorted(found):
        case_of(text, unit)


@pytest.mark.icarus
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_alone_is_right_and_most_faults_in_it_are_seen(name: str, tmp_path: Path) -> None:
    text = _verilog(name, UNITS[name]())
    mutants = list_mutants(text, 20, 1)
    source = tmp_path / "mutants.v"
    source.write_text(with_mutants(text, mutants))
    bench = UnitBench(source, f"lutvar_t__{name}", tmp_path / "units")
    assert bench.run(0) == ""
    found = [m for m in mutants if bench.run(m.number)]
    assert len(found) > len(mutants) // 2


@pytest.mark.icarus
def test_a_unit_whose_original_is_wrong_is_refused(tmp_path: Path) -> None:
    text = _verilog("fp32_add", Fp32Add())
    assert text.count("30:23") > 0
    source = tmp_path / "mutants.v"
    source.write_text(with_mutants(text.replace("x[30:23] - y[30:23]", "x[30:23] + y[30:23]"), []))
    with pytest.raises(ValueError, match="the original of lutvar_t__fp32_add: s of"):
        Units(source, tmp_path / "units", {1: "lutvar_t__fp32_add"})


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mutation")
    return build(export(CONFIG, folder).verilog, build_dir=folder / "sim", jobs=2)


@pytest.mark.slow
@pytest.mark.verilator
@pytest.mark.parametrize("name", DIRECTED)
def test_the_gateware_passes_the_directed_checks(name: str, library: Path) -> None:
    check = next(item for item in checks(CONFIG) if item.name == name)
    with Bench(library, CONFIG) as bench:
        assert check.run(bench, Oracle(CONFIG)) == ""
