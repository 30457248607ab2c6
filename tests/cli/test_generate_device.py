# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate --device`: the driver over a URL, from the model and from a packed image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import lutvar
from lutvar.cli.errors import BAD_INPUT, FAILED, OK
from lutvar.cli.main import run
from lutvar.host.transformer import DeviceTransformer

ONE = ["--class", "3", "--seed", "1", "--zoom", "1", "--json"]


def drawn(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> tuple[bytes, dict]:
    assert run(["generate", *ONE, "-o", str(out), *arguments]) == OK
    return out.read_bytes(), json.loads(capsys.readouterr().out)


def test_a_device_draws_what_the_golden_model_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures and tokens; a packed image on the device draws the same, and decodes the same."""
    golden = ("--backend", "golden")
    picture, right = drawn(capsys, tmp_path / "a.png", *golden)
    coded, _ = drawn(capsys, tmp_path / "c.png", *golden, "--decoder", "golden")
    assert coded != picture
    quantized, image = str(tmp_path / "q.safetensors"), str(tmp_path / "m.img")
    assert run(["quantize", "--preset", "fp4", "-o", quantized]) == OK
    assert run(["pack", quantized, "--config", "small-fp4", "-o", image]) == OK
    capsys.readouterr()
    for more, wanted in (
        ((), coded), (("--image", image), coded), (("--decoder", "device"), coded),
        (("--decoder", "host"), picture), (("--decoder", "golden"), coded),
    ):  # fmt: skip
        url = "golden:small-fp4"
        again, data = drawn(capsys, tmp_path / "b.png", "--device", url, *more)
        assert again == wanted and data["tokens"] == right["tokens"]
        assert ("decoder" in data) == ("host" not in more and "golden" not in more)
        assert data["backend"] == url and len(data["passes"]) == 4
        # Nothing modelled goes by the name of something measured.
        assert "modelled cycles" in data["passes"][0] and "device s" not in data["passes"][0]


@pytest.mark.parametrize(
    ("classes", "more"),
    [
        (["3"], ["--slots", "5000"]),
        (["3", "7"], ["--stagger", "4", "--slots", "5000"]),
        (["3", "7"], ["--stagger", "4"]),
    ],
)
def test_no_more_slots_than_images_meet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    classes: list[str], more: list[str],
) -> None:  # fmt: skip
    """Memory for one image is enough where the second one starts when the first is done."""
    opened: list[object] = []
    place = DeviceTransformer.__init__

    def noted(self: DeviceTransformer, *arguments: Any, **options: Any) -> None:
        opened.append(arguments[2])
        place(self, *arguments, **options)

    monkeypatch.setattr(DeviceTransformer, "__init__", noted)
    device = ["--device", "golden:small-fp4?memory=8", "--decoder", "host"]
    chosen = [word for name in classes for word in ("--class", name)]
    out = tmp_path / "a.png"
    assert run(["generate", *chosen, "--seed", "1", "-o", str(out), *device, *more]) == OK
    assert opened == [1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "usb:x"], "no transport 'usb'"),
        (["--device", "golden:small-fp4", "--backend", "golden"], "no use of --backend"),
        (["--device", "golden:small-fp6"], "HASH_LO"),
        (["--device", "golden:small-fp4?memory=0.1"], "use fewer images at a time or more memory"),
    ],
)
def test_devices_that_do_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    out = tmp_path / "x.png"
    assert run(["generate", *ONE, "-o", str(out), *arguments]) in (BAD_INPUT, FAILED)
    assert said in capsys.readouterr().err and not out.exists()


def test_where_the_device_has_no_decoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host decodes, and a line says why; asked for by name it is an error."""
    quantized, image = str(tmp_path / "q.safetensors"), str(tmp_path / "m.img")
    assert run(["quantize", "--preset", "fp4", "-o", quantized]) == OK
    plain = tmp_path / "plain.yaml"
    shipped = Path(lutvar.__file__).parent / "configs" / "accelerator" / "small-fp4.yaml"
    plain.write_text(
        shipped.read_text(encoding="utf-8").replace("small-fp4", "plain-fp4") + "decoder: false\n",
        encoding="utf-8",
    )
    why = "plain-fp4 is built without what the decoder needs of POST (decoder: false)"
    pack = ["pack", quantized, "--config", str(plain), "-o", image]
    assert run([*pack, "--device-decoder"]) == BAD_INPUT
    assert why in capsys.readouterr().err and not Path(image).exists()
    assert run(pack) == OK
    assert f"packed without the image decoder: {why}" in capsys.readouterr().err
    arguments = ["generate", *ONE, "--device", f"golden:{plain}", "--config", str(plain)]
    out = ["-o", str(tmp_path / "a.png")]
    assert run([*arguments, *out]) == OK
    assert f"decoding on this host: {why}" in capsys.readouterr().err
    assert run([*arguments, "--image", image, *out]) == OK
    assert "decoding on this host: the packed model has no decoder" in capsys.readouterr().err
    Path(out[1]).unlink()
    assert run([*arguments, "--decoder", "device", *out]) == BAD_INPUT
    assert why in capsys.readouterr().err and not Path(out[1]).exists()
    assert run(["generate", *ONE, "--decoder", "device", *out]) == BAD_INPUT
    assert "--decoder device goes with --backend sim or --device" in capsys.readouterr().err
