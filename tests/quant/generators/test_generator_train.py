# SPDX-License-Identifier: Apache-2.0
"""Training a RAR model: codebook, orders, resuming, and the folder it leaves."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lutvar.cli.errors import OK
from lutvar.cli.main import run
from lutvar.quant.eval.tokens import measure_recipes
from lutvar.quant.generators import Tokenizer, TokenizerConfig
from lutvar.quant.models import ModelError, load_model
from lutvar.quant.models.generator import (
    TOKENIZER_FILE,
    WEIGHTS,
    LoadedGenerator,
    is_generator,
    load_generator,
)
from lutvar.quant.train.data import load_digits
from lutvar.quant.train.token_run import train_tokens
from lutvar.quant.train.tokens import DIGITS_RAR, TokenStage, fit_codebook
from support.quant.generator_cases import CASES, model_of

SHORT = replace(DIGITS_RAR, name="short", steps=12, batch=16, samples=20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("train") / "short"
    train_tokens(out, 3, plan=SHORT, progress=False)
    return out


def test_a_codebook_codes_its_images_well() -> None:
    torch.manual_seed(0)
    data = load_digits()
    tokenizer = fit_codebook(data, DIGITS_RAR.tokenizer)
    image = (data.val_images + 1) / 2
    coded = tokenizer.decode(tokenizer.encode(image))
    assert float((coded - image).square().mean()) < 0.01  # 20 dB
    one = fit_codebook(data, TokenizerConfig("patches", 4, 2, in_channels=1, patch=2))
    assert len(one.codebook.weight.unique(dim=0)) == 2


def test_orders_are_random_at_first_and_rows_in_the_end() -> None:
    torch.manual_seed(0)
    data = load_digits()
    stage = TokenStage(data, fit_codebook(data, SHORT.tokenizer), SHORT)
    rows = torch.arange(16).expand(16, -1)
    assert torch.equal(stage._orders(0.0), rows)
    random = stage._orders(1.0)
    assert torch.equal(random.sort(1).values, rows) and not torch.equal(random, rows)


def test_a_folder_is_a_model(folder: Path) -> None:
    loaded = load_generator(folder)
    assert is_generator(folder) and loaded.name == "short" and loaded.model.config == SHORT.config
    assert loaded.sampling == SHORT.sampling == loaded.model.sampling
    card = (folder / "MODEL_CARD.md").read_text()
    assert "lutvar train --model short --seed 3" in card and (folder / "samples.png").is_file()
    with pytest.raises(ModelError, match="is a RAR model, and what was asked"):
        load_model(folder)


def test_the_same_seed_gives_the_same_weights_interrupted_or_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = TokenStage.step, 0

    def broken(self: TokenStage, index: int) -> dict[str, float]:
        nonlocal count
        count += 1
        if count == 6:
            raise KeyboardInterrupt
        return step(self, index)

    monkeypatch.setattr("lutvar.quant.train.loop.SAVE_SECONDS", 0.0)
    monkeypatch.setattr(TokenStage, "step", broken)
    out = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        train_tokens(out, 3, plan=SHORT, progress=False)
    train_tokens(out, 3, plan=SHORT, progress=False)
    assert count < 6 + SHORT.steps
    for name in (WEIGHTS, TOKENIZER_FILE):
        assert (out / name).read_bytes() == (folder / name).read_bytes()


def test_a_changed_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    (copied / TOKENIZER_FILE).write_bytes(b"")
    with pytest.raises(ModelError, match=r"tokenizer\.safetensors: SHA-256 is"):
        load_generator(copied)
    (copied / "model.json").write_text('{"generator": 3}')
    with pytest.raises(ModelError, match="not a usable model description"):
        load_generator(copied)


def test_commands_know_the_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, what in (("", "model:"), (WEIGHTS, "RAR transformer"), (TOKENIZER_FILE, "tokenizer")):
        assert run(["inspect", str(folder / name)]) == OK
        assert what in capsys.readouterr().out
    out = tmp_path / "x.png"
    assert run(["generate", "--model", str(folder), "--class", "2", "-o", str(out)]) == OK
    assert out.is_file()
    capsys.readouterr()
    few = ["--images", "4", "--teacher", "4", "--recipe", "int4-rtn", "--json"]
    assert run(["quality", "--model", str(folder), *few]) == OK
    rows = json.loads(capsys.readouterr().out)
    assert [row["recipe"] for row in rows] == ["float", "int4-rtn"]
    assert rows[0]["kl_nats"] == 0 and rows[0]["same_tokens"] == 1


def test_fewer_bits_cost_more() -> None:
    case = CASES[0]
    tokenizer = Tokenizer(TokenizerConfig("patches", 4, 32, in_channels=1, patch=2))
    loaded = LoadedGenerator("x", model_of(case), tokenizer, case.sampling, tuple("01234"))
    rows = measure_recipes(loaded, ["int8-rtn", "int4-rtn"], 10, 20, 0)
    kl = {row.recipe: row.kl_nats for row in rows}
    assert kl["float"] == 0 < kl["int8-rtn"] < kl["int4-rtn"]
    assert all(row.judged is None for row in rows)
