# SPDX-License-Identifier: Apache-2.0
"""`lutvar generate --device`: the driver over a URL, from the model and from a packed image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lutvar.cli.errors import BAD_INPUT, FAILED, OK
from lutvar.cli.main import run

ONE = ["--class", "3", "--seed", "1", "--zoom", "1", "--json"]


def drawn(capsys: pytest.CaptureFixture[str], out: Path, *arguments: str) -> tuple[bytes, dict]:
    assert run(["generate", *ONE, "-o", str(out), *arguments]) == OK
    return out.read_bytes(), json.loads(capsys.readouterr().out)


def test_a_device_draws_what_the_golden_model_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pictures and tokens; a packed image on the device draws the same."""
    picture, right = drawn(capsys, tmp_path / "a.png", "--backend", "golden")
    quantized, image = str(tmp_path / "q.safetensors"), str(tmp_path / "m.img")
    assert run(["quantize", "--preset", "fp4", "-o", quantized]) == OK
    assert run(["pack", quantized, "--config", "small-fp4", "-o", image]) == OK
    capsys.readouterr()
    for more in ((), ("--image", image)):
        url = "golden:small-fp4"
        again, data = drawn(capsys, tmp_path / "b.png", "--device", url, *more)
        assert again == picture and data["tokens"] == right["tokens"]
        assert data["backend"] == url and len(data["passes"]) == 4
        # Nothing modelled goes by the name of something measured.
        assert "modelled cycles" in data["passes"][0] and "device s" not in data["passes"][0]


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
