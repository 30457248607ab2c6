# SPDX-License-Identifier: Apache-2.0
"""`lutvar fuzz` without a simulator: what is generated, what is found, how small it becomes.

The device here is the program interpreter with a fault put into it on purpose.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from types import TracebackType

import numpy as np
import pytest

from lutvar.cli.main import run as cli
from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.contract.isa import HEADER_FIELDS, PAYLOAD_FIELDS, PROGRAM_HEADER, Opcode, Region
from lutvar.contract.register_map import DeviceError
from lutvar.sim.fuzz import oracle as oracle_module
from lutvar.sim.fuzz import run as run_module
from lutvar.sim.fuzz.case import Case, CaseError, Step, read_case
from lutvar.sim.fuzz.contents import PROGRAM_OFFSET, regions
from lutvar.sim.fuzz.events import EVENTS, random_event, random_timing
from lutvar.sim.fuzz.malformed import fields_of, get, malform, words_of
from lutvar.sim.fuzz.oracle import Oracle
from lutvar.sim.fuzz.outcome import Outcome
from lutvar.sim.fuzz.rules import misfit, refusal
from lutvar.sim.fuzz.run import Fuzzer
from lutvar.sim.fuzz.wellformed import Generator

CONFIG = load_accelerator("small-fp4")
#: Fields of one value in every right program, and why.
CONSTANT = {
    "POST.row_group": "the accelerator has one group of rows",
    **dict.fromkeys(
        ("FETCH.full", "FETCH.rest", "FRONT.sections", "MATRIX.sections", "POST.sections"),
        "the accelerator has one weight port and one section",
    ),
}


def test_every_field_of_the_table_takes_several_values() -> None:
    """A field that a new instruction set brings and nobody generates would be seen here."""
    rng = np.random.default_rng(1)
    seen: dict[str, set[int]] = defaultdict(set)
    for number in range(40):
        made = Generator(CONFIG, rng, small=number % 3 == 0).make(16)
        for item in made.program.instructions:
            for name, value in item.operands.items():
                seen[f"{item.opcode.name}.{name}"].add(value)
    names = {f"{op.name}.{f.name}" for op, fields in PAYLOAD_FIELDS.items() for f in fields}
    assert set(seen) == names
    assert {name for name in names if len(seen[name]) < 2} <= set(CONSTANT)


@pytest.mark.parametrize("config", ["small-fp4", "small-fp6"])
def test_right_programs_are_right_for_the_interpreter(config: str) -> None:
    accelerator = load_accelerator(config)
    rng = np.random.default_rng(2)
    oracle = Oracle(accelerator)
    for number in range(8):
        made = Generator(accelerator, rng, small=number % 2 == 0).make(10)
        step = Step(made.program.encode(), True, made.fills)
        expected = oracle.expected(step)
        before = regions(accelerator, made.fills)
        assert sum(expected.counts) == len(made.program.instructions) - 1
        assert any((before[r] != content).any() for r, content in expected.memory.items())


def test_changes_reach_every_field_of_the_table() -> None:
    rng = np.random.default_rng(3)
    raw = Generator(CONFIG, rng).make(24).program.encode()
    words = words_of(raw)
    wanted = {f"header.{f.name}" for f in PROGRAM_HEADER}
    for word in words[1:]:
        opcode = Opcode(get(word, HEADER_FIELDS[0]))
        wanted |= {f"{opcode.name}.{f.name}" for f in (*HEADER_FIELDS, *PAYLOAD_FIELDS[opcode])}
    changed: set[str] = set()
    for _ in range(4000):
        other = words_of(malform(rng, raw))
        if len(other) != len(words):
            continue
        for at, (a, b) in enumerate(zip(words, other, strict=True)):
            if a == b:
                continue
            fields = fields_of(a) if at else PROGRAM_HEADER
            name = Opcode(get(a, HEADER_FIELDS[0])).name if at else "header"
            changed |= {f"{name}.{f.name}" for f in fields if get(a, f) != get(b, f)}
    assert wanted <= changed


def _surplus(config: AcceleratorConfig, step: Step) -> bool:
    """FETCH brings more beats than the MATRIX after it takes."""
    found = misfit(config, words_of(step.program))
    return found is not None and found[0] is DeviceError.WEIGHTS_SURPLUS


class _BrokenBench:
    """A device in software: surplus beats are reported, and then the next program is wrong."""

    def __init__(self, library: Path, config: AcceleratorConfig) -> None:
        self.oracle, self.config, self.poisoned = Oracle(config), config, False

    def __enter__(self) -> _BrokenBench:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def run(self, step: Step) -> Outcome:
        if not step.right:
            memory = regions(self.config, step.fills)
            raw = np.frombuffer(step.program, np.uint8)
            memory[Region.IO][PROGRAM_OFFSET : PROGRAM_OFFSET + len(raw)] = raw
            words = words_of(memory[Region.IO][PROGRAM_OFFSET:].tobytes())
            refused = refusal(self.config, words)
            if refused is None:
                refused = misfit(self.config, words[: 1 + get(words[0], PROGRAM_HEADER[2])])
                self.poisoned |= _surplus(self.config, step)
            code, info = refused or (DeviceError.NONE, 0)
            return Outcome(done=not code, error=int(code), info=info, memory=memory)
        expected = self.oracle.expected(step)
        memory = {region: content.copy() for region, content in expected.memory.items()}
        if self.poisoned:
            for content in memory.values():
                content[0x40] ^= 1
            self.poisoned = False
        return Outcome(done=True, memory=memory, counts=expected.counts)


def test_surplus_beats_are_found_made_small_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (run_module, oracle_module):
        monkeypatch.setattr(module, "Bench", _BrokenBench)
    monkeypatch.setattr(run_module, "random_event", lambda *_: None)
    fuzzer = Fuzzer(Path("none"), CONFIG, 1, tmp_path)
    report = fuzzer.run(programs=600, seconds=600, max_deviations=1)
    assert [d.kind for d in report.deviations] == ["memory"]
    case = read_case(report.cases[0])
    assert len(case.steps) == 2 and case.steps[1].right and not case.steps[0].right
    assert _surplus(CONFIG, case.steps[0])
    opcodes = [get(word, HEADER_FIELDS[0]) for word in words_of(case.steps[0].program)[1:]]
    assert len(opcodes) <= 4, "only what matters is left"
    assert set(opcodes) == {Opcode.FETCH, Opcode.MATRIX, Opcode.END}
    found = oracle_module.replay(Path("none"), case)
    assert found is not None and found.kind == "memory" and found.at == 1


def test_a_device_without_a_fault_gives_no_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "Bench", _BrokenBench)
    monkeypatch.setattr(run_module, "random_event", lambda *_: None)
    monkeypatch.setitem(globals(), "_surplus", lambda *_: False)
    # A seed without transfers outside all regions, which this device in software does not see.
    report = Fuzzer(Path("none"), CONFIG, 8, tmp_path).run(programs=30)
    assert report.programs == 30 and not report.deviations and not list(tmp_path.iterdir())
    assert report.as_dict()["field_values"]["FRONT.rows"] > 1


def test_equal_seeds_make_equal_steps(tmp_path: Path) -> None:
    steps = []
    for _ in range(2):
        fuzzer = Fuzzer(Path("none"), CONFIG, 77, tmp_path)
        steps.append([fuzzer._step() for _ in range(4)])
    assert steps[0] == steps[1]


def test_a_case_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    kinds: set[str] = set()
    steps = []
    while kinds != set(EVENTS):
        made = Generator(CONFIG, rng, small=True).make(6)
        event = random_event(rng, CONFIG)
        kinds.add(event.kind)
        timing = random_timing(rng, CONFIG)
        steps.append(Step(made.program.encode(), True, made.fills, timing, event))
    case = Case(CONFIG, tuple(steps), 6, "nothing")
    case.write(tmp_path / "case.json")
    assert read_case(tmp_path / "case.json") == case


def _written(tmp_path: Path, **changes: object) -> Path:
    made = Generator(CONFIG, np.random.default_rng(7), small=True).make(6)
    path = tmp_path / "case.json"
    Case(CONFIG, (Step(made.program.encode(), True, made.fills),)).write(path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version": 0x10000}, "contract version 0x10000"),
        ({"hash": "0123456789abcdef"}, "contract with hash 0123456789abcdef"),
        ({"format": "lutvar-accelerator-1"}, "no case of lutvar fuzz"),
        ({"steps": [{}]}, "damaged"),
        ({"config": {"name": "x"}}, "damaged"),
    ],
)
def test_foreign_cases_are_refused_in_one_line(
    changes: dict[str, object], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, **changes)
    with pytest.raises(CaseError, match=says):
        read_case(path)
    assert cli(["fuzz", "--case", str(path), "-o", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert says in message and message.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seed", "-1"], "--seed"),
        (["--seed", str(1 << 32)], "--seed"),
        (["--seconds", "0"], "--seconds"),
        (["--seconds", "nan"], "--seconds"),
        (["--programs", "0"], "--programs"),
        (["--config", "none-such"], "none-such"),
        (["--case", "missing.json"], "missing.json"),
    ],
)
def test_bad_input_is_refused(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(["fuzz", *arguments, "-o", str(tmp_path / "out")]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_simulator_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from lutvar.sim import tools

    missing = tools.Tool("verilator", "5.36", None, None, False, "simulations")
    monkeypatch.setattr(tools, "verilator", lambda *_: missing)
    assert cli(["fuzz", "-o", str(tmp_path / "out")]) != 0
    message = capsys.readouterr().err
    assert "verilator" in message and message.count("\n") == 1
    assert not (tmp_path / "out").exists()
