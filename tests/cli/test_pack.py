# SPDX-License-Identifier: Apache-2.0
"""`lutvar pack`, and images read without torch or run on a device."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lutvar.cli.main import run
from lutvar.cli.pack import parse_classes
from lutvar.contract.accelerator import load_accelerator
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.decoder import OnnxDecoder
from lutvar.host.generate import HostModel
from lutvar.host.transformer import DeviceTransformer
from lutvar.quant.golden.decoder import quantize_decoder
from lutvar.quant.models import load_model
from lutvar.quant.runnable import quantize
from lutvar.sim.run.decoder_file import write_decoder
from support.sim.device_rig import image_step, same
from support.sim.software_device import SoftwareDevice

CONFIG = load_accelerator("small-fp4")


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pack") / "fp4.safetensors"
    assert run(["quantize", "--model", "digits", "--preset", "fp4", "-o", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def image(quantized: Path) -> Path:
    path = quantized.with_name("model.img")
    arguments = ["pack", str(quantized), "--model", "digits", "--config", "small-fp4"]
    assert run([*arguments, "-o", str(path)]) == 0
    return path


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    capsys.readouterr()
    assert run([str(a) for a in arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ")
    return text.splitlines()[0]


def test_the_image_is_what_is_packed_in_memory(image: Path) -> None:
    loaded = PackedTransformer.load(image, CONFIG)
    model = quantize("digits", "small-fp4")
    decoder = quantize_decoder(model.loaded.vqvae, CONFIG.quant_config)
    expected = pack_transformer(model.transformer, CONFIG, decoder=decoder)
    np.testing.assert_array_equal(loaded.image, expected.image)
    assert loaded.decoder is not None and expected.decoder is not None
    assert loaded.decoder.exponents == expected.decoder.exponents
    assert loaded.layout == expected.layout and loaded.exponents == expected.exponents
    assert loaded.model["model"] == "digits" and loaded.model["recipe"] == "fp4"
    assert sorted(p.suffix for p in image.parent.iterdir()) == [".img", ".safetensors"]


def test_what_a_host_without_torch_needs(quantized: Path, tmp_path: Path) -> None:
    arguments = ["pack", str(quantized), "--model", "digits", "--classes", "3"]
    arguments += ["--config", "small-fp4", "-o", str(tmp_path / "model.img")]
    arguments += ["--decoder", str(tmp_path / "model.onnx")]
    assert run([*arguments, "--host-model", str(tmp_path / "model.host")]) == 0
    model = HostModel.load(tmp_path / "model.host")
    layout = PackedTransformer.load(tmp_path / "model.img", CONFIG).layout
    assert model.patch_nums == layout.shape.patch_nums
    latent = np.zeros((1, *model.contribution(0, np.zeros(1, np.int64)).shape), np.float32)
    assert OnnxDecoder(tmp_path / "model.onnx")(latent).shape == (1, 1, 8, 8)
    assert model.positions.shape == (layout.shape.tokens, layout.shape.width)


def test_generate_decodes_with_the_file(tmp_path: Path) -> None:
    """The picture of PyTorch's decoder but for rounding."""
    write_decoder(load_model("digits").vqvae, tmp_path / "model.onnx")
    common = ["generate", "--backend", "float", "--class", "3", "--zoom", "1"]
    assert run([*common, "-o", str(tmp_path / "a.png")]) == 0
    more = ["--decoder", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "b.png")]
    assert run([*common, *more]) == 0
    a, b = (np.asarray(Image.open(tmp_path / f"{n}.png"), np.int16) for n in "ab")
    assert a.shape == b.shape and np.ptp(a[-8:, :8]) > 50
    assert np.abs(a - b).max() <= 1


def test_a_device_computes_the_same_with_it(image: Path) -> None:
    """Programs, memory and logits do not depend on where the image comes from."""
    rng = np.random.default_rng(0)
    steps = [[image_step(rng, 0, 3, 0, 1, width=128)], [image_step(rng, 0, 3, 1, 4, width=128)]]
    results = []
    for packed in (
        PackedTransformer.load(image, CONFIG),
        pack_transformer(quantize("digits", "small-fp4").transformer, CONFIG),
    ):
        transformer = DeviceTransformer(SoftwareDevice(), packed, 1, decode=False)  # type: ignore[arg-type]
        results.append([transformer.run(one) for one in steps])
    assert all(same(a, b) for a, b in zip(*results, strict=True))
    assert np.abs(results[0][1][0]).max() > 0.1


def test_it_is_read_without_torch(image: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'amaranth', 'scipy', 'lutvar.quant', 'lutvar.sim'):\n"
        "    sys.modules[name] = None\n"
        "from lutvar.contract.accelerator import load_accelerator\n"
        "from lutvar.host.compile.packed import PackedTransformer\n"
        f"packed = PackedTransformer.load({str(image)!r}, load_accelerator('small-fp4'))\n"
        "print(packed.layout.size, packed.compiler().model_hash == packed.hash)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    size, equal = done.stdout.split()
    assert int(size) == PackedTransformer.load(image, CONFIG).layout.size and equal == "True"


def test_some_classes(quantized: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = quantized.with_name("some.img")
    arguments = ["pack", str(quantized), "--model", "digits", "--classes", "7, 2-3", "--json"]
    assert run([*arguments, "-o", str(path)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["classes"] == [2, 3, 7]
    packed = PackedTransformer.load(path, CONFIG)
    assert packed.layout.labels == (2, 3, 7, 10)
    assert data["sha256"] == packed.digest() and data["bytes"] == len(packed.image)
    path.unlink()
    assert parse_classes("5") == [5]
    out = quantized.with_name("no.img")
    for text, what in (("3-1", "no range"), ("a", "neither a number"), ("1,,2", "'' is neither")):
        assert what in error_of(capsys, "pack", quantized, "--classes", text, "-o", out)
    assert "class 12: the model has 0 to 9" in error_of(
        capsys, "pack", quantized, "--classes", "12", "-o", out
    )
    assert not out.exists()


def test_what_cannot_be_packed_is_refused(
    quantized: Path, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.img"
    assert "is no regular file" in error_of(capsys, "pack", quantized, "-o", "/dev/null")
    assert "expected 'lutvar-recipe-1'" in error_of(capsys, "pack", image, "-o", out)
    text = tmp_path / "text"
    text.write_text("nothing")
    assert "no such file" in error_of(capsys, "pack", tmp_path / "none", "-o", out)
    assert "not a complete safetensors file" in error_of(capsys, "pack", text, "-o", out)
    assert "needs the formats of preset fp4, small-fp6 has those of fp6" in error_of(
        capsys, "pack", quantized, "--config", "small-fp6", "-o", out
    )
    assert "load the model that was quantized" in error_of(
        capsys, "pack", quantized, "--model", "cifar10", "-o", out
    )
    other = tmp_path / "nvfp4.safetensors"
    assert run(["quantize", "--recipe", "nvfp4", "-o", str(other)]) == 0
    message = error_of(capsys, "pack", other, "-o", out)
    assert "nvfp4 does not run on the accelerator: " in message
    assert message.count(";") > 1, "everything that is missing is listed"
    assert not out.exists()


def test_generate_takes_an_image_of_its_model_only(
    quantized: Path, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--image goes with --backend sim" in error_of(capsys, "generate", "--image", image)
    both = ("--backend", "sim", "--image", image, "--quantized", quantized)
    assert "sim or --device, without --quantized" in error_of(capsys, "generate", *both)
    assert "packed of model 'digits', not of cifar10" in error_of(
        capsys, "generate", "--model", "cifar10", "--backend", "sim", "--image", image
    )
