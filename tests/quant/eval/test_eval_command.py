# SPDX-License-Identifier: Apache-2.0
"""`lutvar eval` on the shipped digits: figures, JSON, intervals, and what it refuses."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from lutvar.cli.main import run
from lutvar.quant.eval import imagenet
from lutvar.quant.eval.evaluate import NOTE

SHIPPED = Path(str(files("lutvar.quant.models"))) / "digits"
FEW = ["eval", "--jobs", "1", "--samples", "80", "--chunk", "40", "--teacher", "10"]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Two seeds of the unquantized model and of one preset."""
    folder = tmp_path_factory.mktemp("eval")
    arguments = ["--seed", "0", "--seed", "1", "--recipe", "preset:fp4", "--work", str(folder)]
    assert run([*FEW, *arguments, "-o", str(folder / "out.json")]) == 0
    return folder, json.loads((folder / "out.json").read_text())


def test_document(evaluated: tuple[Path, dict[str, Any]]) -> None:
    _, data = evaluated
    assert data["note"] == NOTE and "not ImageNet Inception" in NOTE
    assert data["settings"] == {
        "cfg": 1.5, "top_k": 0, "top_p": 0.0, "chunk": 40, "keep_images": False, "samples": 80,
        "seeds": [0, 1], "teacher": 10, "device": "cpu",
    }  # fmt: skip
    kinds = [(r["method"], r["on"], r["seed"]) for r in data["runs"]]
    rows = [("float", "float"), ("preset:fp4", "golden"), ("preset:fp4", "fake")]
    assert kinds == [(*row, seed) for row in rows for seed in (0, 1)]
    assert data["runs"][0]["paired"] is None and data["runs"][0]["forced"] is None


def test_figures(evaluated: tuple[Path, dict[str, Any]]) -> None:
    _, data = evaluated
    for made in data["runs"]:
        samples = made["samples"]
        assert 9 < samples["score"] <= 10 and samples["agreement"] > 0.95
        assert 0.8 < samples["precision"] <= 1 and 0.2 < samples["recall"] <= 1
        # With 80 samples far above what many reach; noise images are beyond 1000.
        assert 5 < samples["frechet"] < 100
    for made in data["runs"][2:]:
        forced, paired = made["forced"], made["paired"]
        assert 0.001 < forced["kl_nats"] < 0.1 and 0.8 < forced["top1"] < 1
        assert forced["images"] == 10
        assert 0.5 < paired["tokens"] < 1 and paired["tokens"] <= paired["tokens_of_scale"][0]
        assert 10 < paired["psnr_db"] < 60
        assert 15 < forced["own_snr_db"]["block1.fc1"] < 35
        # What the method leaves alone has no noise of its own: infinite, which JSON has not.
        assert forced["own_snr_db"]["block1.ada_lin"] is None
        # The block linears are the same; on the golden model the head is quantized as well.
        assert (forced["own_snr_db"]["head"] is None) == (made["on"] == "fake")
    golden, fake = data["runs"][2]["forced"], data["runs"][4]["forced"]
    assert golden["own_snr_db"]["block0.fc2"] == pytest.approx(fake["own_snr_db"]["block0.fc2"])
    assert golden["kl_nats"] > 1.2 * fake["kl_nats"], "docs/quality.md: the head adds 60 to 70 %"
    kl = data["summary"]["preset:fp4"]["golden"]["forced.kl_nats"]
    values = [r["forced"]["kl_nats"] for r in data["runs"][2:4]]
    assert kl["mean"] == pytest.approx(sum(values) / 2)
    assert kl["half_width"] == pytest.approx(12.7062 * abs(values[0] - values[1]) / 2, rel=1e-4)


def test_table_and_resume(
    evaluated: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """The second run finds all samples and says the same."""
    folder, data = evaluated
    times = {p: p.stat().st_mtime_ns for p in folder.glob("*/seed0/*.safetensors")}
    assert len(times) == 6
    assert run([*FEW, "--work", str(folder)]) == 0
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["method", "computed", "Fréchet"] and lines[-1] == NOTE
    assert lines[2].startswith("real images") and lines[3].startswith("float")
    assert f"{data['runs'][0]['samples']['frechet']:.4f}" in lines[3] and "±" not in text
    assert {p: p.stat().st_mtime_ns for p in times} == times
    # Other settings do not mix with these samples.
    assert run([*FEW, "--work", str(folder), "--cfg", "2"]) == 2
    assert "holds samples of another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--samples", "64"], "64 samples for 64 features"),
        (["--recipe", "no-such-recipe"], "unknown recipe 'no-such-recipe'"),
        (["--recipe", "preset:fp5"], "unknown quant preset 'fp5'"),
        (["--model", "no-such-model"], "unknown model 'no-such-model'"),
        (["--recipe", "int4-rtn", "--on", "golden"], "the golden model does not run it: qkv, proj"),
        (["--seed", "1", "--seed", "1"], "seeds [1, 1]: at least one, each once"),
        (["--seed", "5000"], "seed = 5000: from 0 to 4293"),
        (["--cfg", "-1"], "cfg = -1.0"),
        (["--top-k", "97"], "top_k = 97"),
    ],
)
def test_bad_input(
    arguments: list[str], part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*FEW, "--work", str(tmp_path / "w"), *arguments]) == 2
    error = capsys.readouterr().err
    assert part in error and len(error.splitlines()) == 1
    assert not (tmp_path / "w").exists()  # refused before any work


@pytest.mark.parametrize(
    ("file", "part"),
    [("classifier", "has no classifier"), ("reference", "has no reference statistics")],
)
def test_model_without_judge(
    file: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(SHIPPED, tmp_path / "m"))
    path = folder / "model.json"
    content = json.loads(path.read_text())
    del content["files"][f"{file}.safetensors"]
    path.write_text(json.dumps(content))
    assert run([*FEW, "--model", str(folder), "--work", str(tmp_path / "w")]) == 2
    assert part in capsys.readouterr().err


def test_other_ranks_only_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run([*FEW, "--work", str(tmp_path)]) == 0
    found = capsys.readouterr()
    assert found.out == "" and "rank 0 has the result" in found.err
    assert [p.name for p in tmp_path.glob("float/seed0/chunk-*")] == ["chunk-000001.safetensors"]
    monkeypatch.setenv("RANK", "0")
    assert run([*FEW, "--work", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 1


def test_imagenet_protocol_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [*FEW, "--protocol", "imagenet", "--work", str(tmp_path / "w")]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run(asked) == 2
    assert "pip install 'lutvar[eval]'" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    weights = tmp_path / imagenet.WEIGHTS_FILE
    asked += ["--weights", str(weights)]
    assert run(asked) == 2
    error = capsys.readouterr().err
    assert "no such file" in error and "toshas/torch-fidelity/releases" in error
    weights.write_bytes(b"other")
    assert run(asked) == 2
    assert "begins with 6726825d" in capsys.readouterr().err
