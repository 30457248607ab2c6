# SPDX-License-Identifier: Apache-2.0
"""Coverage: points, states and bins are counted right, on text by hand and on an accelerator."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from lutvar.cli.main import run as command
from lutvar.contract.isa import (
    INSTRUCTION_BYTES,
    PAYLOAD_FIELDS,
    Instruction,
    Opcode,
    PostOp,
    Region,
    address,
)
from lutvar.contract.register_map import DeviceError, InstructionRule
from lutvar.host.compile.program import Program
from lutvar.sim.coverage.bins import Bin, error_bins, field_bins
from lutvar.sim.coverage.directed import directed
from lutvar.sim.coverage.points import (
    CoverageError,
    Point,
    merge,
    ranges,
    read_points,
    share,
    shares,
    uncovered,
)
from lutvar.sim.coverage.report import BLOCK, as_dict, block, update_page, write_report
from lutvar.sim.coverage.run import Coverage, configurations, run_coverage
from lutvar.sim.coverage.states import Machine, machine_of, machines, with_transitions
from lutvar.sim.evidence.page import replace_block
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.fuzz.rules import misfit, refusal
from lutvar.sim.runner import tiny_accelerator
from lutvar.text import wrap_page

ROOT = Path(__file__).parents[3]
CONFIG = tiny_accelerator()


def line(kind: str, module: str, name: str, count: int, instance: str = "TOP.a") -> str:
    fields = {"page": f"v_{kind}/lutvar_x__{module}", "f": "x.v", "l": "7", "o": name,
              "h": instance}  # fmt: skip
    text = "".join(f"\x01{key}\x02{value}" for key, value in fields.items())
    return f"C '{text}' {count}\n"


def test_instances_are_one_module(tmp_path: Path) -> None:
    file = tmp_path / "coverage.dat"
    file.write_text(
        "# SystemC::Coverage-3\n"
        + line("toggle", "m", "a[0]", 0)
        + line("toggle", "m", "a[0]", 3, "TOP.b")
        + line("toggle", "m", "a[1]", 0)
        + line("line", "m", "block", 1),
        encoding="utf-8",
    )
    points = read_points(file, "lutvar_x__")
    assert points == {
        Point("toggle", "m", "a[0]"): 3, Point("toggle", "m", "a[1]"): 0,
        Point("line", "m", "7:block"): 1,
    }  # fmt: skip
    assert str(share(points, "toggle")) == "1 of 2 (50.0 %)"
    assert {key: str(s) for key, s in shares(points).items()} == {
        ("m", "line"): "1 of 1 (100.0 %)", ("m", "toggle"): "1 of 2 (50.0 %)",
    }  # fmt: skip
    assert uncovered(points) == {("m", "a"): "1"}
    other = {Point("toggle", "m", "a[1]"): 1}
    assert not uncovered(merge([points, other]))
    assert ranges({0, 1, 2, 5, 7, 8}) == "8..7, 5, 2..0"
    file.write_text("nothing", encoding="utf-8")
    with pytest.raises(CoverageError, match="holds no coverage"):
        read_points(file, "")


def test_states_of_the_sources() -> None:
    found = machines()
    sequencer = found["sequencer"]
    assert sequencer.states[:2] == ("IDLE", "HEADER") and len(sequencer.states) == 11
    assert ("JUDGE", "REFUSE") in sequencer.transitions
    assert ("END", "HEADER") not in sequencer.transitions
    # A local function says where to go.
    assert ("KEYS", "SPLIT") in found["unit_attend__key_addresses"].transitions
    source = """
def f(m):
    with m.FSM():
        with m.State("A"):
            with m.If(1):
                m.next = "C"
        with m.State("B"):
            m.next = "A"
"""
    assert machine_of(source) == Machine(("A", "C", "B"), (("A", "C"), ("B", "A")))


def test_transitions_become_wires() -> None:
    verilog = (
        "module lutvar_x__unit_attend__sorter_12(clk);\n"
        "  reg [1:0] fsm_state = 2'h0;\n"
        "  always @(posedge clk) fsm_state <= 0;\n"
        "endmodule\nmodule other(a);\nendmodule\n"
    )
    text, held = with_transitions(verilog)
    assert held == {"unit_attend__sorter"} and text.count("fsm_before ==") == 4
    assert "wire fsm_block_to_queries = fsm_before == 0 && fsm_state == 1;" in text
    assert text.endswith("module other(a);\nendmodule\n")


def fetch(beats: int, offset: int = 0) -> Instruction:
    place = address(Region.MODEL, offset)
    operands = {"address": place, "beats": beats, "full": 1, "rest": 0, "panels": 1, "repeat": 1}
    return Instruction(Opcode.FETCH, operands)


def test_bins_of_fields() -> None:
    counts = field_bins(CONFIG, [fetch(132), fetch(140)])
    assert counts[Bin("FETCH.beats", "least (132)")] == 1  # without biases
    assert counts[Bin("FETCH.beats", "between")] == 1
    assert counts[Bin("FETCH.address", "MODEL")] == 2 and counts[Bin("FETCH.repeat", "2")] == 0
    assert Bin("FETCH.address", "IO") not in counts  # no right program has its weights there
    assert {b.name for b in counts if b.group == "FETCH.rest"} == {"0"}  # one weight port
    assert Bin("ATTEND.keys", f"most ({CONFIG.max_keys})") in counts
    assert {b.name for b in counts if b.group == "POST.op"} == {op.name for op in PostOp}
    assert {b.name for b in counts if b.group == "POST.output"} == {"WORK", "IO", "CACHE"}


def post(**operands: int) -> Instruction:
    fields = {item.name: 0 for item in PAYLOAD_FIELDS[Opcode.POST]}
    return Instruction(Opcode.POST, {**fields, "rows": 2, "blocks": 1, **operands})


LOOKED: list[tuple[dict[str, int], set[str]]] = [
    ({"op": PostOp.STORE}, set()),
    ({"op": PostOp.STORE, "vector": 1}, {"vector_address"}),
    ({"op": PostOp.ADD}, {"input"}),
    ({"op": PostOp.GELU, "shift": 1}, {"input"}),
    ({"op": PostOp.NORM, "shift": 1}, {"input", "keys"}),
    ({"op": PostOp.QKV}, {"keys", "heads"}),
    ({"op": PostOp.SUMS, "vector": 1}, set()),
]


@pytest.mark.parametrize(("operands", "looked"), LOOKED)
def test_a_field_counts_where_its_instruction_looks_at_it(
    operands: dict[str, int], looked: set[str]
) -> None:
    """Everything else in an instruction may be anything and proves nothing."""
    cache = address(Region.CACHE, 64)
    some = {"input": cache, "vector_address": cache, "keys": cache, "heads": 2}
    counts = field_bins(CONFIG, [post(**some, **operands)])
    found = {b.group.removeprefix("POST.") for b, n in counts.items() if n}
    assert found & set(some) == looked


@pytest.mark.parametrize("number", range(3))
def test_few_programs_have_nearly_all_bins(number: int) -> None:
    config = configurations()[number]
    steps, missing = directed(config, seed=1, candidates=50)
    assert 5 < len(steps) < 40
    found = [i for s in steps for i in Program.decode(s.program).instructions]
    counts = field_bins(config, found)
    assert {b for b, n in counts.items() if not n} == missing
    assert len(missing) < len(counts) / 5
    for step in steps:
        words = [
            int.from_bytes(step.program[at : at + INSTRUCTION_BYTES], "little")
            for at in range(0, len(step.program), INSTRUCTION_BYTES)
        ]
        assert refusal(config, words) is None and misfit(config, words) is None
    Oracle(config).expected(steps[0])


def test_bins_of_errors() -> None:
    bad = int(DeviceError.BAD_INSTRUCTION)
    counts = error_bins(CONFIG, [(bad, 5 | int(InstructionRule.ROWS) << 24), (bad, 1 << 24)])
    assert counts[Bin("ERROR", "BAD_INSTRUCTION")] == 2
    assert counts[Bin("instruction rule", "ROWS")] == 1
    assert counts[Bin("instruction rule", "MARK")] == 1
    assert not counts[Bin("ERROR", "WATCHDOG")] and Bin("ERROR", "NONE") not in counts
    # What the accelerator cannot tell is not missing: it has one weight port and a dual format.
    assert Bin("ERROR", "READ_WGT1") not in counts and Bin("ERROR", "OUTSIDE_WGT3") not in counts
    assert Bin("instruction rule", "DUAL") not in counts
    others = {b for config in configurations() for b in error_bins(config, [])}
    assert {b.name for b in others if b.group == "ERROR"} == {e.name for e in DeviceError if e}
    single = CONFIG.model_copy(update={"quant": "fp4-single"})
    assert Bin("instruction rule", "DUAL") in error_bins(single, [])


def example() -> Coverage:
    points = {
        Point("toggle", "m", "a[0]"): 1, Point("toggle", "m", "b[3]"): 0,
        Point("toggle", "sequencer", "fsm_idle_to_header"): 2,
        Point("toggle", "sequencer", "fsm_judge_to_refuse"): 0,
        Point("line", "m", "tiny:7:block"): 1, Point("branch", "m", "tiny:8:if"): 0,
    }  # fmt: skip
    bins = {Bin("POST.op", "GELU"): 0, Bin("POST.op", "ADD"): 4, Bin("ERROR", "WATCHDOG"): 1}
    return Coverage(["tiny"], points, bins, {"tiny": []}, (50, 0))


def test_report(tmp_path: Path) -> None:
    data = as_dict(example())
    assert data["shares"] == {"line": (1, 1), "branch": (0, 1), "toggle": (1, 2)}
    assert data["transitions"] == {"sequencer": {"idle -> header": 2, "judge -> refuse": 0}}
    assert data["uncovered_signals"] == {"m.b": "3"}
    assert data["uncovered_lines"] == {"m": ["tiny:8:if"]}
    write_report(example(), tmp_path)
    text = (tmp_path / "coverage.md").read_text(encoding="utf-8")
    for part in ("| transitions of state machines | 1 of 2 (50.0 %) |", "* `POST.op`: GELU",
                 "* `state machine of sequencer`: judge -> refuse", "`m` 1"):  # fmt: skip
        assert part in text
    page = tmp_path / "page.md"
    page.write_text(f"<!-- begin {BLOCK} -->\n<!-- end {BLOCK} -->\n", encoding="utf-8")
    update_page(page, json.loads((tmp_path / "coverage.json").read_text(encoding="utf-8")))
    assert "50.0 %" in page.read_text(encoding="utf-8")


def test_the_published_page_is_that_of_the_published_figures() -> None:
    page, file = ROOT / "docs" / "verification.md", ROOT / "docs" / "coverage.json"
    data = json.loads(file.read_text(encoding="utf-8"))
    text = page.read_text(encoding="utf-8")
    assert replace_block(text, BLOCK, wrap_page(block(data))) == text
    assert not data["failed"] and not data["image_values"][1]


def test_configurations_have_every_form() -> None:
    configs = configurations()
    assert {c.dot for c in configs} == {"table", "da"}
    assert {c.float32 for c in configs} == {"portable", "dsp58"}
    assert {c.weight_ports for c in configs} == {1, 4}
    assert {c.max_sections for c in configs} == {1, 2}
    assert len({c.name for c in configs}) == len(configs)


@pytest.mark.verilator
@pytest.mark.slow
def test_an_accelerator_is_covered(tmp_path: Path) -> None:
    """One testbench and nothing else: what it needs is covered, what it cannot do is not."""
    said: list[str] = []
    result = run_coverage(
        [CONFIG], tmp_path, said.append, test_filter=r"every_unit$|bad_headers", image=False
    )
    assert [row.passed for row in result.results["tiny-fp4"]].count(True) >= 2
    data = as_dict(result)
    for kind in ("line", "branch", "toggle"):
        covered, total = data["shares"][kind]
        assert 0 < covered < total
    steps = {k: v for m, s in data["transitions"].items() if m.endswith("sequencer")
             for k, v in s.items()}  # fmt: skip
    assert steps["idle -> header"] and steps["judge_header -> refuse_header"]
    assert not steps["judge -> refuse"]
    assert data["bins"]["POST.op"]["ADD"] and not data["bins"]["POST.op"]["QKV"]
    assert data["bins"]["header rule"]["MAGIC"] and not data["bins"]["ERROR"]["WATCHDOG"]
    assert any(re.search(r"awaddr|base", name) for name in data["uncovered_signals"])


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("", encoding="utf-8")
    for words, text in (
        (["--page", str(page), "-o", str(tmp_path)], "coverage.json is missing"),
        (["--match", "("], "no regular expression"),
    ):
        assert command(["coverage", *words]) == 2
        error = capsys.readouterr().err
        assert text in error and "Traceback" not in error
