# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate` with RAR and PAR files, and what refuses them.

The files have released names and small shapes, so that the tokenizers of the release are replaced
by small ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lutvar.cli.errors import BAD_INPUT, OK
from lutvar.cli.main import run
from lutvar.quant.generators import Rar, RarConfig, TokenizerConfig, generate_tokens
from lutvar.quant.generators.names import MASKGIT, RAR, to_released
from lutvar.quant.models import ModelError, load_model
from lutvar.quant.models.generator import TOKENIZERS, is_generator, load_generator
from support.quant.generator_cases import CASES, model_of, tokenizer_of
from support.quant.generator_cases import TOKENIZERS as SMALL


@pytest.fixture
def rar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A RAR file with a small tokenizer beside it."""
    monkeypatch.setattr(TokenizerConfig, "official", lambda kind: SMALL[kind])
    state = to_released(tokenizer_of("maskgit").state_dict(), MASKGIT)
    torch.save(state, tmp_path / TOKENIZERS["rar"][0])
    path = tmp_path / "small.bin"
    torch.save(to_released(model_of(CASES[0]).state_dict(), RAR), path)
    yield path


def test_a_released_file_is_drawn(rar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = rar.with_name("x.png")
    arguments = ["--class", "3", "--class", "-1", "--seed", "5", "--cfg", "2", "--json"]
    assert run(["generate", "--model", str(rar), *arguments, "-o", str(out)]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["backend"] == "float" and data["classes"] == [3, -1]
    with Image.open(out) as picture:
        assert picture.mode == "RGB" and picture.height > 8
    loaded = load_generator(rar)
    from dataclasses import replace

    sampling = replace(loaded.sampling, cfg=2.0)
    expected = generate_tokens(loaded.model, [3, -1], [5, 6], sampling).tokens_BT
    assert data["tokens"] == expected.tolist()
    first = out.read_bytes()
    assert run(["generate", "--model", str(rar), *arguments, "--slots", "1", "-o", str(out)]) == OK
    assert out.read_bytes() == first


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "--backend", "golden"],
        ["generate", "--device", "golden:small-fp4"],
        ["quantize", "--preset", "fp4"],
        ["demo"],
        ["edit", "--image", __file__, "--box", "0,0,0.5,1"],
    ],
)
def test_what_the_accelerator_lacks_is_listed(
    rar: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = rar.with_name("out")
    assert run([*arguments, "--model", str(rar), "-o", str(out)]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "is a RAR model" in said and "does not run it, since it lacks AdaLN vectors" in said
    assert "heads of 16 columns (records and ATTEND have 64)" in said
    assert not out.is_file()


def test_pack_refuses_too(rar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quantized = rar.with_name("q.safetensors")
    assert run(["quantize", "--preset", "fp4", "-o", str(quantized)]) == OK
    capsys.readouterr()
    out = rar.with_name("m.img")
    assert run(["pack", str(quantized), "--model", str(rar), "-o", str(out)]) == BAD_INPUT
    assert "the accelerator does not run it" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize("option", [["--stagger", "1"], ["--decoder", "x.onnx"]])
def test_options_without_a_use(
    rar: Path, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = rar.with_name("x.png")
    assert run(["generate", "--model", str(rar), *option, "-o", str(out)]) == BAD_INPUT
    assert f"a RAR model makes no use of {option[0]}" in capsys.readouterr().err


def test_files_that_are_missing_or_something_else(tmp_path: Path, rar: Path) -> None:
    assert not is_generator("digits") and not is_generator(tmp_path) and is_generator(rar)
    with pytest.raises(ModelError, match="no such file"):
        load_generator(tmp_path / "none.bin")
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.bin")
    with pytest.raises(ValueError, match="neither a RAR nor a PAR transformer"):
        load_generator(tmp_path / "other.bin")
    with pytest.raises(ModelError, match="is a RAR model"):
        load_model(rar)
    rar.with_name(TOKENIZERS["rar"][0]).unlink()
    with pytest.raises(ModelError, match=r"maskgit-vqgan.*missing.*huggingface\.co/fun-research"):
        load_generator(rar)


def test_a_tokenizer_of_other_tokens(rar: Path) -> None:
    config = RarConfig(width=128, depth=1, heads=2, hidden=128, vocab=32, num_classes=5, tokens=9)
    torch.save(to_released(Rar(config).state_dict(), RAR), rar)
    with pytest.raises(ModelError, match="draws 9 tokens of 32, the tokenizer beside it has 16"):
        load_generator(rar)


def test_a_recipe_and_what_it_draws(rar: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`quantize --recipe`, then `generate --quantized`; the file is of this model alone."""
    quantized, out = rar.with_name("q.safetensors"), rar.with_name("x.png")
    recipe = ["--recipe", "int4-rtn", "--json"]
    assert run(["quantize", "--model", str(rar), *recipe, "-o", str(quantized)]) == OK
    hardware = json.loads(capsys.readouterr().out)["hardware"]
    assert any("exact form" in item for item in hardware["missing"]) and not hardware["runs"]
    arguments = ["generate", "--model", str(rar), "--class", "1", "--json", "-o", str(out)]
    assert run(arguments) == OK
    plain = json.loads(capsys.readouterr().out)
    assert run([*arguments, "--quantized", str(quantized)]) == OK
    coarse = json.loads(capsys.readouterr().out)
    assert coarse["backend"] == "quantized" and coarse["tokens"] != plain["tokens"]
    wrong = ["quantize", "--model", str(rar), "--recipe", "best-fp4", "-o", str(out)]
    assert run([*wrong[:-1], str(rar.with_name("w.safetensors"))]) == BAD_INPUT
    said = capsys.readouterr().err
    assert "tune: not for a RAR model" in said and not rar.with_name("w.safetensors").exists()
    state = torch.load(rar, weights_only=True)
    state["lm_head.bias"] += 1
    torch.save(state, rar)
    assert run([*arguments, "--quantized", str(quantized)]) == BAD_INPUT
    assert "load the model that was quantized" in capsys.readouterr().err
