# SPDX-License-Identifier: Apache-2.0
"""`lutvar decoder`, and `generate --decoder golden`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lutvar.cli.main import run
from lutvar.contract.quant_preset import load_quant
from lutvar.quant.eval.decoder import sampled
from lutvar.quant.golden.decoder import GoldenDecoder, quantize_decoder
from lutvar.quant.models import load_model


def test_it_prints_quality_and_work(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["decoder", "--images", "2", "--seed", "7", "--form", "one", "--form", "two"]
    assert run([*arguments, "--preset", "fp6", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    one, two = data["pixels"]
    assert (one["form"], two["form"]) == ("one", "two")
    model = load_model("digits")
    latents = sampled(model, 2, 7)
    decode = GoldenDecoder(quantize_decoder(model.vqvae, load_quant("fp6")))
    assert decode(latents).shape == (2, 1, 8, 8)
    assert 30 < one["psnr_db"] < two["psnr_db"]
    assert [w["config"] for w in data["work"]] == ["vck190-fp6"] * 2
    cycles = data["work"][0]["total"]
    assert data["work"][0]["milliseconds"] == pytest.approx(cycles / 250_000)
    assert "steps" not in data["work"][0]


def test_the_steps_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["decoder", "--images", "0", "--steps"]) == 0
    text = capsys.readouterr().out
    assert "PSNR" not in text
    assert text.count("decoder.conv_out") == 2  # of each preset what ships
    assert "two-rotated" in text and "graded" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--form", "three"], "unknown form 'three' of the decoder; known: one, straight"),
        (["--preset", "fp5"], "fp5"),
        (["--side", "8"], "--model digits makes no use of --side"),
        (["--model", "official", "--frechet", "99"], "makes no use of --frechet"),
        (["--model", "official", "--side", "6"], "lines of 6 pixels; must be a multiple of 4"),
        (["--frechet", "9", "--images", "0"], "9 samples for 64 features"),
    ],
)
def test_what_cannot_be_done(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["decoder", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_images_are_decoded_at_code_level(tmp_path: Path) -> None:
    arguments = ["generate", "--class", "3", "--seed", "2", "--zoom", "1", "--no-names"]
    assert run([*arguments, "--decoder", "golden", "-o", str(tmp_path / "golden.png")]) == 0
    assert run([*arguments, "-o", str(tmp_path / "float.png")]) == 0
    golden, expected = (
        np.asarray(Image.open(tmp_path / f"{name}.png"), np.int64) for name in ("golden", "float")
    )
    difference = np.abs(golden - expected)
    assert difference.any() and difference.max() < 12


def test_a_float_model_has_no_formats(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["generate", "--backend", "float", "--decoder", "golden"]) == 2
    assert "--backend float is unquantized; --decoder golden goes" in capsys.readouterr().err
    assert torch.is_grad_enabled()


def test_a_decoder_that_is_no_file(capsys: pytest.CaptureFixture[str]) -> None:
    """Before any library that would read it is asked for."""
    assert run(["generate", "--decoder", "missing.onnx"]) == 2
    assert "missing.onnx is neither a file nor golden" in capsys.readouterr().err
