# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate --host-model`: on a device from files alone, where PyTorch does not exist."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lutvar
from lutvar.cli.errors import BAD_INPUT, EXTRAS, OK
from lutvar.cli.image_row import write_row
from lutvar.cli.main import run
from lutvar.host.generate import HostModel, generate
from lutvar.host.group import Decode
from lutvar.quant.golden.decoder import GoldenDecoder, decoder_for
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.models import load_model
from lutvar.sim.run.host_model import host_model
from lutvar.sim.run.session import quantize

DRAW = ["--class", "3", "--class", "7", "--seed", "1", "--zoom", "2"]
ROOT = Path(__file__).parents[2]
#: Modules that a board's host may have: the extra `board`.
BOARD = {"onnxruntime", "PIL"}
#: A Python that an emulator runs, see `requirements/aarch64.sh`.
AARCH64 = os.environ.get("LUTVAR_AARCH64", "")
WITHOUT = (
    "import sys\n"
    "for name in {names!r}: sys.modules[name] = None\n"
    "from lutvar.cli.main import main\n"
    "main()"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what `lutvar pack` writes for a host: m.img, m.host, m.onnx."""
    folder = tmp_path_factory.mktemp("host")
    quantized = str(folder / "q.safetensors")
    assert run(["quantize", "--preset", "fp4", "-o", quantized]) == OK
    more = ["--host-model", str(folder / "m.host"), "--decoder", str(folder / "m.onnx")]
    pack = ["pack", quantized, "--classes", "3,7", "--config", "small-fp4", *more]
    assert run([*pack, "-o", str(folder / "m.img")]) == OK
    return folder


def on_host(folder: Path) -> list[str]:
    return [
        "generate", "--image", str(folder / "m.img"), "--host-model", str(folder / "m.host"),
        "--decoder", str(folder / "m.onnx"),
    ]  # fmt: skip


def without(missing: set[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """The command in a process where some modules cannot be imported."""
    code = WITHOUT.format(names=sorted(missing))
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


def test_the_same_images_without_pytorch(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run on the golden device, recorded, is played back where only the extra `board` is there.

    A replay compares every register and buffer that the host writes, embeddings to the last bit.
    PyTorch's embeddings differ from them in last bits, but for those of the first scale.
    """
    record = str(tmp_path / "run.rec")
    capsys.readouterr()
    made = tmp_path / "made.png", tmp_path / "played.png", tmp_path / "pytorch.png"
    golden = ["--device", f"golden:small-fp4?record={record}", "--json", "-o", str(made[0])]
    assert run([*on_host(files), *DRAW, *golden]) == OK
    first = json.loads(capsys.readouterr().out)
    assert run(["generate", "--backend", "golden", *DRAW, "--json", "-o", str(made[2])]) == OK
    pytorch = json.loads(capsys.readouterr().out)
    assert [one[0] for one in first["tokens"]] == [one[0] for one in pytorch["tokens"]]
    assert [len(one) for one in first["tokens"]] == [len(one) for one in pytorch["tokens"]]
    assert first["classes"] == [3, 7]
    assert list(first["time"]["seconds_per_image"])[-4:] == [
        "embeddings", "sampling", "feature map", "decoder",
    ]  # fmt: skip

    replay = ["--device", f"replay:{record}", "--json", "-o", str(made[1])]
    done = without(EXTRAS.keys() - BOARD, [*on_host(files), *DRAW, *replay])
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    assert played["tokens"] == first["tokens"] and len(played["passes"]) == 4
    assert made[1].read_bytes() == made[0].read_bytes()


def test_a_device_decodes_without_pytorch_and_onnx(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every value that the host hands the device is in a record, which a bare host plays back."""
    record = str(tmp_path / "run.rec")
    whole = on_host(files)[:-2]
    made, played = tmp_path / "made.png", tmp_path / "played.png"
    capsys.readouterr()
    golden = ["--device", f"golden:small-fp4?record={record}", "--json", "-o", str(made)]
    assert run([*whole, *DRAW, *golden]) == OK
    first = json.loads(capsys.readouterr().out)
    assert [report["programs"] for report in first["decoder"]] == [20, 20]
    replay = ["--device", f"replay:{record}", "--decoder", "device", "-o", str(played)]
    done = without({*EXTRAS} - {"PIL"}, [*whole, *DRAW, *replay])
    assert done.returncode == 0, done.stderr
    assert "decoded on the device: 40 programs" in done.stdout
    assert played.read_bytes() == made.read_bytes()


def test_staggered_and_overlapped(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same picture, and images a second by the clock on the wall."""
    three = [part for label in (3, 7, -1) for part in ("--class", str(label))]
    common = [*on_host(files)[:-2], *three, "--zoom", "2", "--device", "golden:small-fp4", "--json"]
    data = []
    for name, schedule in (
        ("one", ["--slots", "1"]),
        ("staggered", ["--stagger", "1"]),
        ("overlapped", ["--stagger", "1", "--groups", "2"]),
    ):
        capsys.readouterr()
        assert run([*common, *schedule, "-o", str(tmp_path / f"{name}.png")]) == OK
        data.append(json.loads(capsys.readouterr().out))
    one, staggered, overlapped = data
    picture = (tmp_path / "one.png").read_bytes()
    for name, made in (("staggered", staggered), ("overlapped", overlapped)):
        assert made["tokens"] == one["tokens"]
        assert (tmp_path / f"{name}.png").read_bytes() == picture
    assert len(one["passes"]) == 12 and len(staggered["passes"]) == 6
    assert all(len(made["decoder"]) == 3 for made in data)
    assert [made["time"]["overlapped"] for made in data] == [False, False, True]
    parts = overlapped["time"]["seconds_per_image"]
    assert parts["waiting for a turn"] > 0 and "waiting for a turn" not in one["time"]
    assert overlapped["time"]["images_per_second"] > 1 / sum(parts.values())


@pytest.mark.slow
@pytest.mark.verilator
def test_overlapped_on_simulated_verilog(
    files: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two groups take turns with the Verilog, decoder included: the golden model's pictures."""
    monkeypatch.chdir(ROOT)  # where simulations are kept
    draw = ["--zoom", "1", "--no-names", "--class", "3", "--class", "7", "--seed", "1", "--json"]
    device = ["--device", f"sim:small-fp4?out={tmp_path / 'verilog'}"]
    data = []
    for name, schedule in (
        ("overlapped", ["--slots", "2", "--stagger", "1", "--groups", "2"]),
        ("plain", []),
    ):
        capsys.readouterr()
        out = ["-o", str(tmp_path / f"{name}.png")]
        assert run([*on_host(files)[:-2], *draw, *device, *schedule, *out]) == OK
        data.append(json.loads(capsys.readouterr().out))
    overlapped, plain = data
    quantized = quantize("digits", "small-fp4")
    model, info = HostModel.load(files / "m.host"), quantized.loaded.info
    right = generate(
        model, GoldenTransformer(quantized.transformer), [3, 7], [1, 2], info.cfg, info.top_k,
        info.top_p, decode=tensors(GoldenDecoder(decoder_for(quantized.loaded.vqvae,
                                                             quantized.config))),
    )  # fmt: skip
    images = [one.image for one in right if one.image is not None]
    write_row(np.stack(images), 1, None, tmp_path / "golden.png")
    picture = (tmp_path / "golden.png").read_bytes()
    for name, made in (("overlapped", overlapped), ("plain", plain)):
        assert made["tokens"] == [[int(t) for s in one.tokens for t in s] for one in right]
        assert (tmp_path / f"{name}.png").read_bytes() == picture
        assert [report["programs"] for report in made["decoder"]] == [20, 20]
        assert made["time"]["overlapped"] == (name == "overlapped")
    assert len(overlapped["passes"]) == 8 and len(plain["passes"]) == 4
    assert overlapped["time"]["seconds_per_image"]["waiting for a turn"] > 0


def tensors(decode: Callable[[torch.Tensor], torch.Tensor]) -> Decode:
    """A decoder of tensors as one of arrays."""
    return lambda latents: decode(torch.from_numpy(latents)).numpy()


@pytest.mark.slow
@pytest.mark.skipif(not AARCH64, reason="LUTVAR_AARCH64 names no Python of aarch64")
def test_on_an_emulated_a72(files: Path, tmp_path: Path) -> None:
    """What this processor recorded is played back by an emulated one: every bit that it writes.

    `requirements/aarch64.sh` makes the Python. Pixels may differ by one: the decoder computes in
    float32 on each processor in its own order.
    """
    record, made, played = (str(tmp_path / name) for name in ("run.rec", "a.png", "b.png"))
    common = [*on_host(files), *DRAW]
    assert run([*common, "--device", f"golden:small-fp4?record={record}", "-o", made]) == OK
    done = subprocess.run(
        [AARCH64, "-m", "lutvar.cli.main", *common, "--device", f"replay:{record}", "-o", played],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(lutvar.__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pictures = [np.asarray(Image.open(path), np.int16) for path in (made, played)]
    assert np.abs(pictures[0] - pictures[1]).max() <= 1


@pytest.mark.parametrize("package", sorted(BOARD))
def test_what_is_missing_is_said_before_the_device_is_opened(
    files: Path, tmp_path: Path, package: str
) -> None:
    out = tmp_path / "x.png"
    arguments = [*on_host(files), *DRAW, "--device", "uio:nothing-there", "-o", str(out)]
    done = without({*EXTRAS} - BOARD | {package}, arguments)
    assert done.returncode == BAD_INPUT and not out.exists()
    assert f"{package} is not installed; run: pip install 'lutvar[board]'" in done.stderr


def test_what_does_not_go_together(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(*arguments: str) -> str:
        capsys.readouterr()
        assert run([*arguments, "-o", str(tmp_path / "x.png")]) == BAD_INPUT
        assert not (tmp_path / "x.png").exists()
        return capsys.readouterr().err

    device, whole = ["--device", "golden:small-fp4"], on_host(files)
    assert "--host-model goes with --device, --image and" in error(*whole)
    assert "unless the device decodes" in error(*whole[:-2], *device, "--decoder", "golden")
    alone = [*whole[:2], str(files / "alone.img"), *whole[3:-2]]
    quantized = ["pack", str(files / "q.safetensors"), "--config", "small-fp4"]
    assert run([*quantized, "--no-device-decoder", "-o", alone[2]]) == OK
    assert "alone.img: has no decoder; pack it with one, or give" in error(*alone, *device)
    assert "makes no use of --model" in error(*whole, *device, "--model", "digits")
    assert "--groups goes with --host-model" in error("generate", "--groups", "2")
    alone = [*whole, *device, "--class", "3", "--groups", "2"]
    assert "--groups 2: each needs an image in progress, and there is 1" in error(*alone)
    few = [*whole, *device, "--groups", "3", "--slots", "2"]
    assert "and there are 2; draw more images, or give more --slots" in error(*few)
    for url in ("replay:x.rec", "golden:small-fp4?record=x.rec"):
        turns = error(*whole, "--device", url, "--groups", "2")
        assert "--groups 2 uses the device in another order each time" in turns
    assert "class 11: the model has classes 0 to 9" in error(*whole, *device, "--class", "11")
    loaded = load_model("cifar10")
    other = tmp_path / "other.host"
    host_model(loaded.var, loaded.vqvae, loaded.info).save(other)
    whole[whole.index("--host-model") + 1] = str(other)
    assert "take both from one run of lutvar pack" in error(*whole, *device)


def test_labels_and_smooth_sampling(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes of `generate` with PyTorch, and its tokens at the first scale."""
    draw = ["--class", "random", "--class", "none", "--class", "10", "--smooth", "--json"]
    results = []
    for how in ([*on_host(files), "--device", "golden:small-fp4"], ["generate"]):
        capsys.readouterr()
        assert run([*how, *draw, "-o", str(tmp_path / "x.png")]) == OK
        results.append(json.loads(capsys.readouterr().out))
    here, there = results
    assert here["classes"] == there["classes"] and here["classes"][1:] == [-1, -1]
    assert 0 <= here["classes"][0] < 10
    assert [one[0] for one in here["tokens"]] == [one[0] for one in there["tokens"]]
