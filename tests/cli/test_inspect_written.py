# SPDX-License-Identifier: Apache-2.0
"""`lutvar inspect` on JSON, records and other files, each written by the code that writes it."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import lutvar
from lutvar.bench.mutation.campaign import Verdict
from lutvar.bench.mutation.review import reviewed
from lutvar.cli.main import run
from lutvar.cli.results import _described
from lutvar.contract.unit_costs import save_point
from lutvar.files import json_text, write_file
from lutvar.host.compile.store import PassStore
from lutvar.host.open import open_transport
from lutvar.quant.eval.record import Record
from lutvar.sim.explore.front import front_dict, pareto, write_pick
from lutvar.sim.explore.study import Exploration
from lutvar.sim.formal.run import Result
from lutvar.sim.fuzz.run import Report
from support.host.compile_cases import DIGITS, accelerator, compiler, staggered
from support.sim.explore import points, task

ROOT = Path(__file__).parents[2]
PACKAGE = Path(lutvar.__file__).parent


def inspected(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, object]:
    capsys.readouterr()
    assert run(["inspect", str(path)]) == 0, capsys.readouterr().err
    text = capsys.readouterr().out
    assert run(["inspect", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert text.startswith(f"{path}: {data['kind']}\n")
    return dict(data)


def refusal(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    capsys.readouterr()
    assert run(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("docs/results.jsonl", "record of `lutvar results`"),
        ("docs/evidence.jsonl", "records of `lutvar evidence`"),
        ("docs/bench-history.jsonl", "history of `lutvar bench --history`"),
        ("docs/coverage.json", "figures of `lutvar coverage`"),
        ("lutvar/contract/data/units.json", "costs of units (synthesised)"),
        ("lutvar/contract/data/array_costs.json", "costs of arrays in other formats"),
        *(
            (str(path.relative_to(ROOT)), "case of `lutvar fuzz`")
            for path in sorted((ROOT / "tests/sim/fuzz/cases").glob("*.json"))
        ),
        *(
            (str(path.relative_to(ROOT)), "sizes of an accelerator (YAML)")
            for path in sorted((ROOT / "lutvar/configs/accelerator").glob("*.yaml"))
        ),
    ],
)
def test_files_of_the_repository(name: str, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert str(inspected(capsys, ROOT / name)["kind"]).startswith(kind)


def write(path: Path, data: object) -> Path:
    write_file(path, json_text(data, indent=1) + "\n")
    return path


def test_one_line_of_a_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of lines that has but one is no other document."""
    for name in ("results.jsonl", "evidence.jsonl", "bench-history.jsonl"):
        line = (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()[0]
        (tmp_path / name).write_text(line + "\n", encoding="utf-8")
        kind = str(inspected(capsys, tmp_path / name)["kind"])
        assert kind.replace("records", "record") in str(
            inspected(capsys, ROOT / "docs" / name)["kind"]
        ).replace("records", "record") or kind.startswith("record of `lutvar evidence`")


def test_proofs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = Result("queue.wide", "", "proved", "rIC3", 2, 3.5, requirements=4, lemmas=1)
    bad = Result("queue.wide", "late", "open", "", 0, 1.0, detail="it is open", requirements=4)
    data = inspected(capsys, write(tmp_path / "report.json", [good.as_dict(), bad.as_dict()]))
    assert data["kind"] == "results of `lutvar formal` (proofs)"
    assert data["results"] == {"open": 1, "proved": 1} and data["mutants"] == 1
    one = write(tmp_path / "result.json", {**vars(good), "key": "0" * 64})
    data = inspected(capsys, one)
    assert data["kind"] == "result of one proof of `lutvar formal`" and data["lemmas"] == 1


def test_fuzz(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = Report(3, "small-fp4", 2, 90, 1.0, Counter(well=2), Counter(done=2))
    data = inspected(capsys, write(tmp_path / "report.json", report.as_dict()))
    assert data["kind"] == "figures of `lutvar fuzz` (simulated)"
    assert data["programs"] == 2 and data["deviations"] == 0


def test_mutation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = {"configuration": "c", "mutants": 2, "killed": 1, "survived": 1,
              "by_check": {"programs": 1}, "rows": []}  # fmt: skip
    data = inspected(capsys, write(tmp_path / "report.json", reviewed(report, [])))
    assert data["kind"] == "report of `make mutation` (simulated)" and data["survived"] == 1
    verdicts = [Verdict(1, "programs", "w", 1.0), Verdict(2, "", "", 2.0)]
    lines = "".join(json_text(vars(verdict)) + "\n" for verdict in verdicts)
    path = tmp_path / "verdicts.jsonl"
    path.write_text(lines, encoding="utf-8")
    data = inspected(capsys, path)
    assert data["mutants"] == 2 and data["survived"] == 1 and data["killed_by"] == {"programs": 1}
    path.write_text(lines[:-9], encoding="utf-8")
    data = inspected(capsys, path)
    assert data["mutants"] == 1 and data["last_line"] == "cut, left out"


def test_explorations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = Exploration(task(), str(tmp_path / "trials.log"))
    search.run(4)
    data = inspected(capsys, tmp_path / "trials.log")
    assert data["kind"] == "storage of `lutvar explore`" and data["model"] == "tiny"
    worths = search.worths()
    front = pareto(worths, search.task.objectives)
    data = inspected(capsys, write(tmp_path / "f", front_dict(search.task, worths, front)))
    assert str(data["kind"]).startswith("Pareto front") and data["tried"] == len(worths)
    write_pick(tmp_path / "tiny-pick.yaml", search.task, front[0], "balanced", "lutvar explore")
    data = inspected(capsys, tmp_path / "tiny-pick.yaml")
    assert data["kind"] == "sizes of an accelerator (YAML)" and data["accelerator"] == "tiny-pick"


def test_costs_and_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for point in points()[:2]:
        save_point(point, tmp_path / "units.json")
    assert inspected(capsys, tmp_path / "units.json")["points"] == 2
    cost = write(tmp_path / "matrix.json", points()[0].cost.as_dict())
    assert inspected(capsys, cost)["kind"] == "cost of a unit (synthesised)"
    record = Record(ROOT / "docs" / "results.jsonl")
    rows = [record.state(row.key) for row in record.rows.values()]
    data = {"rows": [{**_described(row), "row": None} for row in rows], "measured_now": []}
    states = inspected(capsys, write(tmp_path / "results.json", data))["states"]
    assert isinstance(states, dict) and sum(states.values()) == len(rows)
    curve = {"model": "m", "recipe": "r", "images": 1, "seed": 0, "points": []}
    kind = str(inspected(capsys, write(tmp_path / "passes.json", curve))["kind"])
    assert kind.startswith("accuracy over cycles")


def test_passes_of_the_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = PassStore(compiler(DIGITS, accelerator()), tmp_path)
    instructions = store.get(staggered(DIGITS)[:1]).instructions
    (path,) = tmp_path.glob("*.pass")
    data = inspected(capsys, path)
    assert data["format"] == "lutvar-pass-2" and data["key"] == path.stem
    assert data["instructions"] == instructions
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert "does not match its SHA-256" in refusal(capsys, path)


def test_traffic_that_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `replay:` does, the line that was not finished is left out."""
    path = tmp_path / "run.rec"
    transport = open_transport(f"golden:small-fp4?record={path}")
    transport.read32(0)
    transport.write(0, np.arange(64, dtype=np.uint8))
    transport.close()
    whole = inspected(capsys, path)
    assert whole["calls"] == {"put": 1, "read": 1} and "last_line" not in whole
    path.write_bytes(path.read_bytes()[:-9])
    assert inspected(capsys, path)["calls"] == {"read": 1}
    path.write_bytes(path.read_bytes().splitlines()[0] + b"\n")
    assert inspected(capsys, path)["calls"] == {}


def test_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lutvar.cli.study.require_simulator", lambda: None)
    monkeypatch.setattr("lutvar.sim.run.agreement.run_agreement", lambda folder, say: [])
    path = tmp_path / "study.json"
    assert run(["study", "agreement", "-o", str(path)]) == 0
    data = inspected(capsys, path)
    assert data["kind"] == "tables of `lutvar study` (simulated)" and data["different"] == 0
    assert data["rows"] == {"agreement": 0}


def test_a_record_that_is_written_whole_is_damaged_when_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes((ROOT / "docs" / "results.jsonl").read_bytes()[:-50])
    assert "cut or altered" in refusal(capsys, path)


def test_files_for_hosts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `lutvar pack` writes beside the image."""
    quantized, image, host, decoder = (
        tmp_path / name for name in ("q.safetensors", "m.img", "m.host", "m.onnx")
    )
    assert run(["quantize", "--preset", "fp4", "-o", str(quantized)]) == 0
    more = ["--host-model", str(host), "--decoder", str(decoder), "--classes", "3"]
    assert run(["pack", str(quantized), "-o", str(image), *more]) == 0
    data, packed = inspected(capsys, host), inspected(capsys, image)
    assert data["format"] == "lutvar-host-1" and data["vocabulary"] == 96
    assert data["model_fingerprint"] == packed["made_from"]["fingerprint"]  # type: ignore[index]
    assert "(ONNX)" in str(inspected(capsys, decoder)["kind"])
    decoder.write_bytes(decoder.read_bytes()[:-600])
    assert "cut" in refusal(capsys, decoder)


#: Modules that write JSON to files, and the test that inspects what they write; None: only the
#: module itself reads it again.
WRITERS = {
    "bench/array.py": __file__,
    "bench/methods.py": "cli/test_inspect.py",
    "bench/mutation/__main__.py": __file__,
    "bench/mutation/campaign.py": __file__,
    "bench/packing.py": None,
    "bench/units.py": __file__,
    "cli/bench.py": "cli/test_bench.py",
    "cli/evaluate.py": "cli/test_inspect.py",
    "cli/explore.py": __file__,
    "cli/formal.py": __file__,
    "cli/fuzz.py": __file__,
    "cli/results.py": __file__,
    "cli/selftest.py": "host/board/test_selftest_command.py",
    "cli/study.py": __file__,
    "contract/unit_costs.py": __file__,
    "host/compile/packed.py": "cli/test_inspect.py",
    "host/compile/pass_file.py": __file__,
    "host/dump.py": "sim/fakeboard/test_record.py",
    "host/host_model.py": __file__,
    "host/record.py": __file__,
    "hw/accelerator/export.py": "cli/test_inspect.py",
    "quant/eval/passes_curve.py": __file__,
    "quant/eval/record.py": __file__,
    "quant/eval/reference.py": "cli/test_inspect.py",
    "quant/eval/store.py": "cli/test_inspect.py",
    "quant/generators/checkpoint.py": "quant/generators/test_generator_train.py",
    "quant/methods/recipes/files.py": "cli/test_inspect.py",
    "quant/methods/resumable.py": "quant/methods/test_methods_files.py",
    "quant/models/classifier.py": "cli/test_inspect.py",
    "quant/train/run.py": "cli/test_inspect.py",
    "quant/train/token_run.py": "quant/generators/test_generator_train.py",
    "quant/var/checkpoint.py": "cli/test_inspect.py",
    "quant/var/tensors.py": "cli/test_inspect.py",
    "sim/coverage/report.py": __file__,
    "sim/evidence/campaign.py": None,
    "sim/evidence/records.py": __file__,
    "sim/formal/run.py": __file__,
    "sim/fuzz/case.py": __file__,
    "sim/fuzz/renew.py": __file__,
    "sim/run/report.py": "sim/run/test_demo.py",
    "sim/runner.py": "sim/test_testbenches.py",
    "sim/vectors/write.py": "sim/vectors/test_vectors.py",
    "vivado/project.py": "vivado/test_project.py",
}


def called(path: Path) -> set[str]:
    """Names of functions and methods that a module calls."""
    calls = (n.func for n in ast.walk(ast.parse(path.read_bytes())) if isinstance(n, ast.Call))
    return {f.id if isinstance(f, ast.Name) else getattr(f, "attr", "") for f in calls}


def test_every_module_that_writes_json_is_known_here() -> None:
    """Whoever adds one says which test inspects its files."""
    calls = {path.relative_to(PACKAGE).as_posix(): called(path) for path in PACKAGE.rglob("*.py")}
    made = {"write_file", "write"}
    writers = {m for m, names in calls.items() if "json_text" in names and names & made}
    assert writers == set(WRITERS)
    for test in {name for name in WRITERS.values() if name}:
        assert "inspect" in (ROOT / "tests" / test).read_text(encoding="utf-8")
