# SPDX-License-Identifier: Apache-2.0
"""What an accelerator or a host cannot decode: refused by name, in one line, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import lutvar
from lutvar.cli.errors import BAD_INPUT, OK
from lutvar.cli.main import run
from lutvar.host.host_model import HostModel
from lutvar.quant.models import load_model
from lutvar.sim.run.decoder_file import write_decoder

Refused = Callable[..., str]
DEVICE = ["--device", "golden:small-fp4"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `lutvar pack` writes: q.safetensors, m.img, m.host; and other.onnx of another model."""
    folder = tmp_path_factory.mktemp("refusals")
    quantized = str(folder / "q.safetensors")
    assert run(["quantize", "--preset", "fp4", "-o", quantized]) == OK
    pack = ["pack", quantized, "--classes", "3", "--config", "small-fp4"]
    assert run([*pack, "--host-model", str(folder / "m.host"), "-o", str(folder / "m.img")]) == OK
    write_decoder(load_model("cifar10").vqvae, folder / "other.onnx")
    return folder


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must fail as bad input and write nothing; returns its line."""

    def call(*arguments: str | Path, ending: str = "png") -> str:
        capsys.readouterr()
        out = tmp_path / "out" / f"x.{ending}" if ending else tmp_path / "out"
        assert run([*map(str, arguments), "-o", str(out)]) == BAD_INPUT
        left = [path for path in out.parent.rglob("*") if path.is_file()]
        assert [path.name for path in left if path.name != "device-dump.json"] == []
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(said) == 1
        return said[0]

    return call


def on_host(files: Path) -> list[str | Path]:
    return [
        "generate", "--image", files / "m.img", "--host-model", files / "m.host", "--class", "3",
    ]  # fmt: skip


def test_a_tokenizer_that_is_too_wide(files: Path, tmp_path: Path, refused: Refused) -> None:
    shipped = Path(lutvar.__file__).parent / "configs" / "accelerator" / "small-fp4.yaml"
    narrow = tmp_path / "narrow-fp4.yaml"
    text = shipped.read_text(encoding="utf-8").replace("small-fp4", "narrow-fp4")
    assert "acc_depth: 512" in text
    narrow.write_text(text.replace("acc_depth: 512", "acc_depth: 256"), encoding="utf-8")
    why = "decoder.mid.attn_1.qkv: rows of 384 results; acc_depth of narrow-fp4 is 256"
    draw = ["generate", "--class", "3", "--config", narrow, "--decoder", "device"]
    assert why in refused(*draw, "--device", f"golden:{narrow}")
    pack = ["pack", files / "q.safetensors", "--config", narrow, "--device-decoder"]
    assert why in refused(*pack, ending="img")


def test_maps_that_do_not_fit_the_memory(files: Path, refused: Refused) -> None:
    """The transformer has room and the maps have not; two groups need two sets of them."""

    def device(mib: float) -> list[str]:
        return ["--device", f"golden:small-fp4?memory={mib}"]

    one, two = on_host(files), [*on_host(files), "--class", "3", "--groups", "2"]
    assert run([*map(str, one), *device(2.6), "-o", str(files / "fits.png")]) == OK
    why = "maps of 8 x 8 pixels take 42496 bytes; there are"
    assert why in refused(*one, *device(2.54))
    assert f"group 2 of 2: {why}" in refused(*two, *device(2.74))


def test_values_that_are_not_finite(files: Path, tmp_path: Path, refused: Refused) -> None:
    model = HostModel.load(files / "m.host")
    codebook = model.codebook.copy()
    codebook[5, 2] = np.inf
    damaged = tmp_path / "damaged.host"
    replace(model, codebook=codebook).save(damaged)
    draw = [damaged if part == files / "m.host" else part for part in on_host(files)]
    assert "damaged.host: value inf of codebook at (5, 2) is not finite" in refused(*draw, *DEVICE)


def test_files_of_another_configuration_or_model(files: Path, refused: Refused) -> None:
    other = ["--device", "golden:small-fp6", "--config", "small-fp6"]
    why = "m.img: packed for accelerator "
    assert why in refused(*on_host(files), *other)
    assert why in refused("generate", "--class", "3", "--image", files / "m.img", *other)
    wrong = ["--decoder", files / "other.onnx"]
    why = "other.onnx: decodes latent maps of shape (16, 8, 8), the model's are (8, 4, 4); take"
    assert why in refused(*on_host(files), *DEVICE, *wrong)
    assert why in refused("generate", "--class", "3", *wrong)


@pytest.mark.verilator
def test_more_images_to_decode_than_there_are(refused: Refused) -> None:
    one = refused("demo", "--class", "3", "--decode", "2", ending="")
    assert "--decode 2: there is 1 image; decode 1 at most, or draw more classes" in one
    two = refused("demo", "--class", "3", "--class", "5", "--decode", "7", ending="")
    assert "--decode 7: there are 2 images; decode 2 at most" in two
