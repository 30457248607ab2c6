# SPDX-License-Identifier: Apache-2.0
"""Files of recipes' results, runs that are broken off, and the command that makes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lutvar.cli.inspecting import inspect
from lutvar.cli.main import run
from lutvar.quant.eval.subject import SubjectName, load_subject
from lutvar.quant.methods import (
    QuantizedVar,
    Recipe,
    load_recipe,
    prepare_calibration,
    quantize_var,
)
from lutvar.quant.methods import resumable as module
from lutvar.quant.methods.errors import QuantizedFileError
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.layers.state import CLASSES, register
from lutvar.quant.methods.recipes import files as recipe_files
from lutvar.quant.methods.resumable import quantize_to_file
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.var import Var, generate
from lutvar.quant.var.sites import LinearSite


@cache
def digits() -> LoadedModel:
    return load_model("digits")


def short(**changes: Any) -> Recipe:
    """fpqvar-fp4-kv6 with little data, AdaLN in integers and head in float scales."""
    values = load_recipe("fpqvar-fp4-kv6").model_dump()
    values["steps"][0]["epochs"] = 1
    values["calibration"] = {"samples": 8}
    values["layers"]["ada_lin"] = {"weight": {"format": "INT4", "asymmetric": True}}
    values["layers"]["head"] = {"input": {"format": "E2M3", "group": "row"}}
    return Recipe.model_validate(values | changes)


PLAIN = short(steps=[{"step": "hadamard", "sites": ["qkv", "fc1"]}])


def generate_logits(var: Var) -> Tensor:
    result = generate(var, digits().vqvae, [3, 8], seed=2, keep_logits=True)
    assert result.logits
    return torch.cat(result.logits, 1)


def logits(quantized: QuantizedVar) -> Tensor:
    with quantized.installed(digits().var) as var:
        return generate_logits(var)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    var, path = digits().var, tmp_path / "q.safetensors"
    quantized = quantize_var(var, PLAIN)
    layer = quantized.layers[LinearSite(1, "fc2")]
    assert layer.rounded_OI is not None
    layer.low_rank = torch.randn(2, 512), torch.randn(128, 2) / 100
    layer.rounded_OI = layer.rounded_OI * 1.01  # on no grid
    layer.notes.append("changed")
    quantized.save(path, var)
    found = QuantizedVar.load(path, var)
    assert found.recipe == PLAIN and list(found.layers) == list(quantized.layers)
    for site, one in quantized.layers.items():
        other = found.layers[site]
        assert one.rounded_OI is not None and other.rounded_OI is not None
        assert torch.equal(one.rounded_OI, other.rounded_OI), site
        assert one.notes == other.notes and len(one.operations) == len(other.operations)
    assert torch.equal(logits(found), logits(quantized))
    again = tmp_path / "again.safetensors"
    quantized.save(again, var)
    assert again.read_bytes() == path.read_bytes()
    # Codes take a byte, float weights would take four.
    weights = sum(layer.rounded_OI.numel() for layer in found.layers.values())  # type: ignore[union-attr]
    assert path.stat().st_size < 2.2 * weights


#: Recipes whose layers or attention hold something of their own.
OWN_PARTS = [
    "repq-w6a6", "noisyquant-w4a4", "quarot-w4a4", "vidit-w4a4", "svdquant-fp4", "adalog-w6a6",
    "ias-w6a6", "ptq4arvg-w6a6", "fpqvar-fp4-shift-and-sum",
]  # fmt: skip


@pytest.mark.parametrize("name", OWN_PARTS)
def test_other_methods_round_trip(name: str, tmp_path: Path) -> None:
    var, vqvae, path = digits().var, digits().vqvae, tmp_path / "q.safetensors"
    values = load_recipe(name).model_dump()
    values["calibration"] |= {"samples": 10}
    for step in values["steps"]:
        step |= {key: 2 for key in ("steps", "iterations") if key in step}
    recipe = Recipe.model_validate(values)
    samples = prepare_calibration(var, vqvae, recipe.calibration) if recipe.needs_data else None
    quantized = quantize_var(var, recipe, samples)
    quantized.save(path, var)
    found = QuantizedVar.load(path, var)
    again = tmp_path / "again.safetensors"
    found.save(again, var)
    assert again.read_bytes() == path.read_bytes()
    for site, layer in quantized.layers.items():
        assert torch.equal(layer.rounded_OI, found.layers[site].rounded_OI), site  # type: ignore[arg-type]
    # Not to the last bit: a factor may be stored transposed, and is then summed in another order.
    expected, plain = logits(quantized), generate_logits(var)
    assert (logits(found) - expected).norm() < 0.3 * (plain - expected).norm()
    assert not hardware(found, var).runs


def test_bad_files_are_named(tmp_path: Path) -> None:
    var, path = digits().var, tmp_path / "q.safetensors"
    with pytest.raises(QuantizedFileError, match="no such file"):
        QuantizedVar.load(path, var)
    quantize_var(var, PLAIN).save(path, var)
    torch.manual_seed(0)
    other = Var(replace(var.config, depth=1)).eval()
    with pytest.raises(QuantizedFileError, match="load the model that was quantized"):
        QuantizedVar.load(path, other)
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)
    with pytest.raises(QuantizedFileError, match="altered or damaged"):
        QuantizedVar.load(path, var)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(QuantizedFileError, match="not a complete safetensors file"):
        QuantizedVar.load(path, var)
    from lutvar.quant.models import __file__ as models

    weights = Path(models).parent / "digits" / "var.safetensors"
    with pytest.raises(QuantizedFileError, match="another safetensors file"):
        QuantizedVar.load(weights, var)


def test_classes_of_steps_can_be_stored(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Negate:
        signs_I: Tensor
        names: tuple[str, ...]

        def __call__(self, x: Tensor) -> Tensor:
            return x * self.signs_I

        def describe(self) -> str:
            return "signs"

    var, path = digits().var, tmp_path / "q.safetensors"
    quantized = quantize_var(var, PLAIN)
    operation = Negate(torch.ones(128).neg(), ("a", "b"))
    quantized.layers[LinearSite(0, "proj")].operations.append(operation)
    with pytest.raises(QuantizedFileError, match=r"class Negate cannot .*state\.register"):
        quantized.save(path, var)
    assert not path.exists()
    register(Negate)
    try:
        quantized.save(path, var)
        found = QuantizedVar.load(path, var).layers[LinearSite(0, "proj")].operations[-1]
        assert isinstance(found, Negate) and found.names == ("a", "b")
        assert torch.equal(found.signs_I, operation.signs_I)
        with pytest.raises(TypeError, match="another class with this name"):
            register(dataclass(type("Negate", (), {})))
    finally:
        del CLASSES["Negate"]
    with pytest.raises(QuantizedFileError, match="'Negate', which is not registered"):
        QuantizedVar.load(path, var)


def test_broken_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    var, vqvae = digits().var, digits().vqvae
    path, recipe = tmp_path / "q.safetensors", short()
    made: list[int] = []
    keep = module.Parts.keep

    def breaking(limit: int) -> Callable[..., None]:
        def kept(self: module.Parts, index: int, layers: Any) -> None:
            if len(made) == limit:
                raise KeyboardInterrupt
            made.append(index)
            keep(self, index, layers)

        return kept

    monkeypatch.setattr(module.Parts, "keep", breaking(2))
    with pytest.raises(KeyboardInterrupt):
        quantize_to_file(var, vqvae, recipe, path)
    assert made == [0, 1] and not path.exists()
    parts = module.Parts(path, recipe, recipe_files.fingerprint(var))
    with parts.opened(), pytest.raises(QuantizedFileError, match="another process is at work"):
        quantize_to_file(var, vqvae, recipe, path)
    with pytest.raises(QuantizedFileError, match="unfinished run of another recipe"):
        quantize_to_file(var, vqvae, recipe.model_copy(update={"seed": 1}), path)
    marker = tmp_path / "q.safetensors.parts" / "run.json"
    assert inspect(marker).kind == inspect(marker.parent).kind == "unfinished `lutvar quantize`"
    written = marker.read_text()
    marker.write_text(written.replace(module.PARTS_FORMAT, "lutvar-parts-0"))
    with pytest.raises(QuantizedFileError, match="unfinished run of another version"):
        quantize_to_file(var, vqvae, recipe, path)
    marker.write_text(written)
    # A block that was damaged is made again, the others are not.
    block = tmp_path / "q.safetensors.parts" / "block_000.safetensors"
    block.write_bytes(block.read_bytes()[:-100])
    monkeypatch.setattr(module.Parts, "keep", breaking(99))
    monkeypatch.setattr(module, "prepare_calibration", None)  # samples are kept, too
    seen: list[tuple[int, int]] = []
    report = quantize_to_file(var, None, recipe, path, progress=lambda *x: seen.append(x))
    assert made == [0, 1, 0, 2, 3, 4] and seen[-1] == (5, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["q.safetensors"]
    assert not report.runs and "head: float weight" in report.missing[0]
    monkeypatch.undo()
    whole = tmp_path / "whole.safetensors"
    quantize_to_file(var, vqvae, recipe, whole)
    assert whole.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_command_in_two_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, recipe = tmp_path / "out" / "q.safetensors", tmp_path / f"{PLAIN.name}.yaml"
    recipe.write_text(PLAIN.model_dump_json())
    arguments = ["quantize", "--recipe", str(recipe), "-o", str(path), "--json"]
    assert run([*arguments, "--jobs", "2"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["coverage"]["qkv"] == "W4A4" and data["coverage"]["head"] == "W32A6"
    assert data["bytes"] == path.stat().st_size and not data["hardware"]["runs"]
    found = QuantizedVar.load(path, digits().var)
    assert torch.equal(logits(found), logits(quantize_var(digits().var, PLAIN)))
    # `lutvar eval` takes the file as it is.
    subject = load_subject(SubjectName("digits", str(path)))
    with subject.installed() as var:
        result = generate(var, digits().vqvae, [3, 8], seed=2, keep_logits=True)
    assert result.logits and torch.equal(torch.cat(result.logits, 1), logits(found))
    assert run(["quantize", "--recipe", "nope", "-o", str(path)]) == 2
    assert "unknown recipe 'nope'; shipped: " in capsys.readouterr().err
    assert run(["quantize", "--recipe", "x", "--preset", "fp4", "-o", str(path)]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "kill"]
)
def test_command_told_to_stop_ends_its_processes(
    number: int, code: int, tmp_path: Path, ctrl_c: None
) -> None:
    """They do not compute their whole shares first, and blocks that are done stay."""
    path, recipe = tmp_path / "q.safetensors", tmp_path / "fpqvar-fp4-kv6.yaml"
    values = short().model_dump(mode="json")
    values["steps"][0] |= {"epochs": 300, "sites": ["qkv"]}
    recipe.write_text(json.dumps(values))
    program = "from lutvar.cli.main import main; main()"
    arguments = ("quantize", "--recipe", str(recipe), "-o", str(path), "--jobs", "2")
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        try:
            parts = tmp_path / "q.safetensors.parts"
            deadline = time.monotonic() + 300
            while not list(parts.glob("block_*")) and process.poll() is None:
                assert time.monotonic() < deadline, "the first block does not come"
                time.sleep(0.05)
            # As a terminal does it, Ctrl-C reaches all processes; `kill` reaches the first.
            (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
            _, text = process.communicate(timeout=120)  # the pipe ends with the last process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, text
    assert "finished blocks are kept" in text and "Traceback" not in text
    assert 0 < len(list(parts.glob("block_*.safetensors"))) < 5 and not path.exists()


@pytest.mark.parametrize(
    ("value", "threads"), [(None, 1), ("", 1), ("3", 3), ("4,2", 4), ("0", 1), ("many", 1)]
)
def test_threads_of_a_process(
    value: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenMP also takes a list, one number for each level of nesting."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if value is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert module.omp_threads() == threads
