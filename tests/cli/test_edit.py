# SPDX-License-Identifier: Apache-2.0
"""`lutvar edit`: files, backends that agree, and mistakes in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lutvar.cli.errors import BAD_INPUT, OK
from lutvar.cli.main import run
from lutvar.quant.var import Var, Vqvae, VqvaeConfig
from support.quant.var_cases import CASES
from support.quant.var_weights import fill

BOX = ["--box", "0.25,0.25,0.75,0.75"]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A digit as `generate` draws it."""
    path = tmp_path_factory.mktemp("given") / "digit.png"
    draw = ["generate", "--backend", "float", "--class", "3", "--zoom", "1", "--no-names"]
    assert run([*draw, "-o", str(path)]) == OK
    with Image.open(path) as picture:
        assert picture.size == (8, 8) and picture.mode == "L"
    return path


def edited(
    capsys: pytest.CaptureFixture[str], image: Path, out: Path, *arguments: str
) -> dict[str, Any]:
    capsys.readouterr()
    assert run(["edit", "--image", str(image), "-o", str(out), "--json", *arguments]) == OK
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def test_one_result(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "e.png"
    data = edited(capsys, image, out, *BOX, "--backend", "float", "--class", "8")
    assert data["files"] == [str(out)] and data["classes"] == [8]
    assert data["sheet"] == str(tmp_path / "e.sheet.png")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.png", "e.sheet.png"]
    assert pixels(out).shape == (8, 8)
    assert pixels(tmp_path / "e.sheet.png").shape[2] == 3
    assert np.array(data["mask"]).sum() == 12
    assert data["kept"] == [1, 4, 8, 12] and data["kept_psnr"] > 10
    assert data["sampling"]["smooth"] is True


def test_several_results_and_labels(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = ["--class", "none", "--class", "10", "--class", "random"]
    arguments = [*BOX, "--backend", "float", *labels, "--count", "2", "--seed", "5"]
    data = edited(capsys, image, tmp_path / "e.png", *arguments)
    assert [Path(f).name for f in data["files"]] == [f"e-{i}.png" for i in range(1, 7)]
    assert data["classes"][:4] == [-1] * 4 and all(0 <= c < 10 for c in data["classes"][4:])
    named = ["--class", str(data["classes"][5]), "--seed", "10"]
    again = edited(capsys, image, tmp_path / "f.png", *BOX, "--backend", "float", *named)
    np.testing.assert_array_equal(pixels(again["files"][0]), pixels(data["files"][5]))


def test_golden_model_and_device_agree(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same tokens and pixels, smoothing and all, and the kept tokens on both."""
    results = [
        edited(capsys, image, tmp_path / "e.png", *BOX, "--class", "5", *where)
        for where in (["--decoder", "golden"], ["--device", "golden:small-fp4"], ["--no-smooth"])
    ]
    assert results[0]["tokens"] == results[1]["tokens"] and results[1]["passes"]
    assert results[0]["kept_psnr"] == results[1]["kept_psnr"]
    assert results[2]["tokens"] != results[0]["tokens"]


def test_masks_borders_and_pasting(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    white = np.zeros((8, 8), np.uint8)
    white[3, 3] = 255
    Image.fromarray(white).save(tmp_path / "m.png")
    mask = ["--mask", str(tmp_path / "m.png"), "--backend", "float"]
    one = edited(capsys, image, tmp_path / "e.png", *mask)
    assert (np.array(one["mask"]) == 0).sum() == 1
    more = edited(capsys, image, tmp_path / "e.png", *mask, "--border", "1", "--paste")
    keep = np.array(more["mask"], bool)
    assert keep.sum() == 16 - 9 and more["pasted"]
    large = np.kron(keep, np.ones((2, 2), bool))
    np.testing.assert_array_equal(pixels(more["files"][0])[large], pixels(image)[large])
    box = edited(capsys, image, tmp_path / "e.png", "--box", "3,3,4,4", "--backend", "float")
    assert box["mask"] == one["mask"] and box["tokens"] == one["tokens"]
    around = edited(
        capsys, image, tmp_path / "e.png", "--box", "0,0,0.5,1", "--outside", "--backend", "float"
    )
    assert np.array(around["mask"]).tolist() == [[1] * 4] * 2 + [[0] * 4] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --box or --mask"),
        ([*BOX, "--mask", "m.png"], "give either --box or --mask"),
        (["--box", "1,2"], "four numbers, TOP,LEFT,BOTTOM,RIGHT"),
        (["--box", "a,b,c,d"], "four numbers, TOP,LEFT,BOTTOM,RIGHT"),
        (["--box", "0.5,0.5,0.2,0.9"], "top < bottom"),
        (["--box", "0,0,9,9"], "pixels from 0 to 8"),
        (["--box", "0.5,0.5,7,7"], "pixels are whole numbers"),
        (["--box", "-1,0,1,1"], "from 0 to 1"),
        (["--box", "0,0,1,1"], "keeps no cell"),
        (["--box", "0.4,0.4,0.45,0.45"], "keeps every cell"),
        ([*BOX, "--border", "1"], "keeps no cell"),
        ([*BOX, "--class", "11"], "classes 0 to 9, and -1 or 10"),
        ([*BOX, "--class", "cat"], "'cat' is no class"),
        ([*BOX, "--top-p", "2"], "--top-p"),
        ([*BOX, "--top-k", "200"], "top_k = 200"),
        ([*BOX, "--backend", "float", "--config", "small-fp6"], "no use of --config"),
        ([*BOX, "--packed", "x.img"], "--packed goes with --backend sim or --device"),
        ([*BOX, "--count", "2", "-o", "/dev/null"], "takes one image"),
        (["--mask", "missing.png"], "missing.png: no such file"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_mistakes(
    image: Path, arguments: list[str], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where = [] if "-o" in arguments else ["-o", str(tmp_path / "e.png")]
    assert run(["edit", "--image", str(image), *where, *arguments]) == BAD_INPUT
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.png").write_bytes(image.read_bytes()[:60])
    out = tmp_path / "out" / "e.png"
    assert run(["edit", "--image", str(tmp_path / "x.png"), *BOX, "-o", str(out)]) == BAD_INPUT
    assert "is a damaged image" in capsys.readouterr().err
    assert not out.exists()


def test_a_released_file_without_unit_length_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It draws and edits in float; the accelerator's arithmetic is refused with the reason."""
    case = next(case for case in CASES if not case.var.attn_l2_norm)
    for name, model in ("var_d2.pth", Var(case.var)), ("vae_ch160v4096z32.pth", Vqvae(case.vqvae)):
        fill(model)
        torch.save(model.state_dict(), tmp_path / name)
    monkeypatch.setattr(VqvaeConfig, "official", lambda patch_nums: case.vqvae)
    model_of = ["--model", str(tmp_path / "var_d2.pth"), "--class", "1"]
    out, given = str(tmp_path / "e.png"), str(tmp_path / "g.png")
    sampling = ["--top-k", "60"]  # the released default is above this vocabulary
    draw = ["generate", *model_of, *sampling, "--zoom", "1", "--no-names", "-o", given]
    assert run([*draw, "--backend", "float"]) == OK
    change = ["edit", *model_of, *sampling, "--image", given, *BOX, "-o", out]
    assert run([*change, "--backend", "float"]) == OK
    assert pixels(out).shape == (64, 64, 3)
    for arguments in (draw, change, [*change, "--device", "golden:small-fp4"]):
        capsys.readouterr()
        assert run(arguments) == BAD_INPUT
        assert "attn_l2_norm is off; attention of the accelerator" in capsys.readouterr().err
