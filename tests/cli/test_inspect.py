# SPDX-License-Identifier: Apache-2.0
"""`lutvar list` and `lutvar inspect`: every file that lutvar writes is known, damage is named."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from lutvar.cli.listing import KINDS
from lutvar.cli.main import run
from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.compiler import Compiler
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.steps import StepShape
from lutvar.quant.methods.recipes.training_state import TrainingState
from lutvar.quant.train.loop import run_stage
from support.sim.device_rig import exported

MODELS = Path(str(files("lutvar.quant.models")))
Written = dict[str, Path]


class _Stage:
    """The least that `run_stage` trains."""

    name, fingerprint, steps = "stage", "settings", 3

    def step(self, index: int) -> dict[str, float]:
        return {"loss": float(index)}

    def measure(self) -> dict[str, float]:
        return {}

    def state(self) -> dict[str, torch.Tensor]:
        return {"w": torch.ones(3)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        raise AssertionError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """One file of each kind, written by lutvar itself."""
    folder = tmp_path_factory.mktemp("inspect")
    made: Written = {"model": folder / "digits"}
    shutil.copytree(MODELS / "digits", made["model"])
    for part in ("var", "vqvae", "classifier", "reference"):
        made[part] = made["model"] / f"{part}.safetensors"
    made["picture"] = made["model"] / "samples.png"
    made["card"] = made["model"] / "MODEL_CARD.md"
    for part in ("var", "vqvae"):
        made[f"{part}.xz"] = MODELS / "cifar10" / f"{part}.safetensors.xz"
    made["quantized"], made["image"] = folder / "q.safetensors", folder / "m.img"
    assert run(["quantize", "--preset", "fp4", "-o", str(made["quantized"])]) == 0
    assert run(["pack", str(made["quantized"]), "-o", str(made["image"]), "--classes", "3"]) == 0
    work, made["eval"] = folder / "work", folder / "eval.json"
    few = ["--samples", "80", "--teacher", "2", "--chunk", "40", "--jobs", "1"]
    assert run(["eval", *few, "--work", str(work), "-o", str(made["eval"])]) == 0
    made["samples"] = work / "float" / "seed0"
    made["chunk"] = made["samples"] / "chunk-000001.safetensors"
    config = load_accelerator("small-fp4")
    layout = ModelLayout.of(TransformerShape(128, 1, 2, 512, 128, (1, 2)), config, (0, 1))
    compiler = Compiler(layout, (0,) * len(layout.layers), 1e-6, 1, model_hash=0xABCD)
    made["program"] = folder / "pass.bin"
    program = compiler.compile([StepShape(0, 0, 0, 1, False)]).program
    made["program"].write_bytes(program.encode())
    run_stage(_Stage(), folder, 0, progress=False)
    made["training"] = folder / "stage.state"
    variable = torch.ones(4, 2, requires_grad=True)
    made["tuning"] = folder / "tune.pt"
    TrainingState(made["tuning"], [variable], torch.optim.Adam([variable])).save(7)
    return made


@pytest.fixture(scope="module")
def verilog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("verilog")).verilog


def inspected(capsys: pytest.CaptureFixture[str], path: Path) -> dict[str, object]:
    capsys.readouterr()
    assert run(["inspect", str(path)]) == 0
    text = capsys.readouterr().out
    assert run(["inspect", str(path), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert text.startswith(f"{path}: {data['kind']}\n")
    return dict(data)


#: Name in `written` -> part of the kind, and some of what must be said.
EXPECTED: dict[str, tuple[str, dict[str, object]]] = {
    "model": ("model: transformer", {"name": "digits", "checked": "SHA-256 of every file"}),
    "var": ("weights of a VAR transformer", {"classes": 10, "numbers": 1_239_272}),
    "vqvae": ("weights of a VAR tokenizer", {"vocabulary": 96, "scales": [1, 2, 3, 4]}),
    "var.xz": ("weights of a VAR transformer, compact", {"classes": 10}),
    "vqvae.xz": ("weights of a VAR tokenizer, compact", {"vocabulary": 512}),
    "classifier": ("classifier", {"network": "digits"}),
    "reference": ("reference statistics", {"images": {"test": 269, "train": 1528}}),
    "picture": ("picture", {"pixels": "765 x 482"}),
    "card": ("page for people", {}),
    "quantized": ("quantized model", {"recipe": "fp4", "format": "lutvar-recipe-1", "layers": 17}),
    "image": (
        "packed model",
        {"classes": [3], "null_class": 10, "format": "lutvar-image-1", "decoder": "two-rotated"},
    ),
    "eval": ("result of `lutvar eval`", {"methods": ["float"], "samples": 80, "seeds": [0]}),
    "samples": ("samples of `lutvar eval`", {"chunks": 2, "samples": 80}),
    "chunk": ("chunk of samples", {"samples": 40}),
    "program": ("program", {"model_hash": "000000000000abcd"}),
    "training": ("state of an unfinished `lutvar train`", {"steps_done": 3}),
    "tuning": ("state of unfinished tuning", {"steps_done": 7, "numbers": 8}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_files_are_known(name: str, written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    kind, facts = EXPECTED[name]
    data = inspected(capsys, written[name])
    assert str(data["kind"]).startswith(kind)
    assert {key: data[key] for key in facts} == facts
    assert data["bytes"]


def test_a_name_means_nothing(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(written["image"], tmp_path / "a.json")
    assert str(inspected(capsys, tmp_path / "a.json")["kind"]).startswith("packed model")


def test_hashes_agree_between_kinds(written: Written, capsys: pytest.CaptureFixture[str]) -> None:
    image, quantized = (inspected(capsys, written[n]) for n in ("image", "quantized"))
    made_from = image["made_from"]
    assert isinstance(made_from, dict)
    assert made_from["fingerprint"] == quantized["model_fingerprint"]
    assert made_from["recipe"] == quantized["recipe"] and made_from["model"] == "digits"
    model, var = inspected(capsys, written["model"]), inspected(capsys, written["var"])
    assert model["files"]["var.safetensors"] == var["sha256"]  # type: ignore[index]


@pytest.mark.slow
def test_verilog_and_manifest(verilog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, manifest = inspected(capsys, verilog), inspected(capsys, verilog.with_suffix(".json"))
    assert found["accelerator"] == "small-fp4" and found["checked"] == "SHA-256 in small-fp4.json"
    assert manifest["verilog_sha256"] == found["sha256"]
    assert manifest["formats"]["weight"] == "E2M1"  # type: ignore[index]
    with verilog.open("a", encoding="utf-8") as file:
        file.write("// more\n")
    for path in (verilog, verilog.with_suffix(".json")):
        assert run(["inspect", str(path)]) == 2
        assert "one of them was changed" in capsys.readouterr().err


def test_documents(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "estimate.json"
    arguments = ["estimate", "--model", "digits", "--config", "small-fp4", "--json"]
    for more, kind in (([], "estimate of"), (["--compare"], "comparison of")):
        capsys.readouterr()
        assert run([*arguments, *more]) == 0
        path.write_text(capsys.readouterr().out)
        data = inspected(capsys, path)
        assert str(data["kind"]).startswith(kind) and data["model"] == "digits"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("quantized", "altered or damaged"), ("image", "does not match its SHA-256"),
        ("program", "instruction"), ("var.xz", "not a complete compact file"),
    ],
)  # fmt: skip
def test_damage_is_one_line(
    name: str, part: str, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = bytearray(written[name].read_bytes())
    raw[-30] ^= 0xFF
    path = tmp_path / "damaged"
    path.write_bytes(raw)
    assert error_of(capsys, path).count(part) == 1


@pytest.mark.parametrize(
    "name", ["quantized", "image", "program", "var", "var.xz", "eval", "training", "picture"]
)
def test_a_cut_file_is_one_line(
    name: str, written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = written[name].read_bytes()
    path = tmp_path / "cut"
    for length in (len(raw) // 2, len(raw) - 1, 9):
        path.write_bytes(raw[:length])
        if name == "eval" and length == len(raw) - 1:
            continue  # only the last newline
        assert str(path) in error_of(capsys, path)


def error_of(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    capsys.readouterr()
    assert run(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert not captured.out
    return captured.err


def test_what_is_not_lutvars_is_one_line(
    written: Written, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no such file" in error_of(capsys, tmp_path / "none")
    assert "no regular file" in error_of(capsys, Path("/dev/zero"))
    assert "neither a model" in error_of(capsys, tmp_path)
    path = tmp_path / "x"
    cases = {
        b"": "is empty", b"hello\n": "of no file that lutvar writes", b'{"a": 1}': "did not write",
        b"{'a'": "begins like JSON but is none", b"[1, 2]": "did not write",
        b'{"a": 1}\n{"a": 2}\n': "lines of JSON that", b"PK\3\4 no zip": "torch does not read",
        b'{"lutvar": 1, "settings": 2, "runs": 3}': "of another version",
        b"\xfd7zXZ\0rest": "not a complete compact file",
        b"\x08\0\0\0\0\0\0\0{\"a\":[]}": "not a complete safetensors file",
    }  # fmt: skip
    for content, part in cases.items():
        path.write_bytes(content)
        assert part in error_of(capsys, path), content
    changed = tmp_path / "model"
    shutil.copytree(written["model"], changed)
    (changed / "vqvae.safetensors").write_bytes(b"x")
    assert "vqvae.safetensors: SHA-256 is" in error_of(capsys, changed)
    (changed / "vqvae.safetensors").unlink()
    assert "missing" in error_of(capsys, changed)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == list(KINDS)
    for kind, names in data.items():
        assert names, kind
        for name, meaning in names.items():
            assert meaning and "\n" not in meaning, f"{kind} {name} has no line of meaning"
    assert "digits" in data["models"] and "fpqvar-fp4" in data["recipes"]
    assert data["steps"]["hadamard"].startswith("Rotates each block")
    assert data["formats"]["E2M1"] == "4 bits, -6 to 6 before scaling, one scale"
    assert run(["list", "sizes", "presets"]) == 0
    text = capsys.readouterr().out
    assert "d30" in text and "fp6" in text and "hadamard" not in text


def test_what_verification_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = {
        "format": "lutvar-evidence-1", "name": "n", "config": "c", "what": "w", "ok": True,
        "values": 7, "values_different": 0, "cycles": 9, "date": "d",
        "key": {"contract": "k", "verilog": "v"},
    }  # fmt: skip
    figures = {
        "format": "lutvar-coverage-1", "configs": ["tiny"], "testbenches": {"tiny": 3},
        "failed": [], "shares": {"line": [1, 2]}, "uncovered_signals": {},
    }  # fmt: skip
    case = {
        "format": "lutvar-vectors-1", "case": "units", "what": "w", "config": "c", "programs": 3,
        "memory_words": 4, "words_written": 2, "contract": "k", "verilog": "v",
    }  # fmt: skip
    for name, text, known in (
        ("record", json.dumps(record, indent=1), "record of `lutvar evidence`"),
        ("lines", 2 * (json.dumps(record) + "\n"), "records of `lutvar evidence`"),
        ("figures", json.dumps(figures), "figures of `lutvar coverage`"),
        ("case", json.dumps(case), "case of `lutvar export-vectors`"),
    ):
        file = tmp_path / f"{name}.json"
        file.write_text(text, encoding="utf-8")
        assert run(["inspect", str(file)]) == 0
        assert known in capsys.readouterr().out
