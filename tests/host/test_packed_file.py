# SPDX-License-Identifier: Apache-2.0
"""The packed-model file: round trip, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from host_cases import random_layer, tiny
from safetensors.numpy import save_file

from lutvar.host import PackedFileError, PackedModel


def _model(quant: str = "fp4") -> PackedModel:
    hardware, preset = tiny(quant)
    rng = np.random.default_rng(0)
    layers = {
        "block0.qkv": random_layer(rng, preset, 9, 2, rotate=True),
        "block0.fc2": random_layer(rng, preset, 4, 3, dual=True),
    }
    return PackedModel.pack(layers, hardware, preset, {"name": "test"})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.lutvar"
    _model().save(path)
    return path


def test_round_trip(saved: Path) -> None:
    loaded, original = PackedModel.load(saved, *tiny()), _model()
    assert list(loaded) == list(original)
    for name, layer in original.items():
        assert loaded[name].args == layer.args
        assert np.array_equal(loaded[name].stream, layer.stream)
    assert loaded.model == {"name": "test"}
    assert loaded.nbytes == original.nbytes
    assert not loaded["block0.qkv"].stream.flags.writeable
    assert [p.name for p in saved.parent.iterdir()] == [saved.name], "a temporary file is left"


def test_saving_is_reproducible(saved: Path) -> None:
    again = saved.with_name("again")
    digest = _model().save(again)
    assert again.read_bytes() == saved.read_bytes()
    assert len(digest) == 64


def test_unknown_layer_lists_the_known_ones(saved: Path) -> None:
    with pytest.raises(KeyError, match=r"block9.*block0.qkv"):
        PackedModel.load(saved, *tiny())["block9.qkv"]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PackedFileError, match="cannot read"):
        PackedModel.load(tmp_path / "nothing", *tiny())


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_truncated(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(PackedFileError, match="cut or altered"):
        PackedModel.load(saved, *tiny())


@pytest.mark.parametrize("where", [-1, -700])
def test_altered_weights(saved: Path, where: int) -> None:
    data = bytearray(saved.read_bytes())
    data[where] ^= 1
    saved.write_bytes(data)
    with pytest.raises(PackedFileError, match="SHA-256"):
        PackedModel.load(saved, *tiny())


def test_altered_argument(saved: Path) -> None:
    data = saved.read_bytes()
    changed = data.replace(b'\\"rotate\\": true', b'\\"rotate\\": null')
    assert changed != data
    saved.write_bytes(changed)
    with pytest.raises(PackedFileError, match="SHA-256"):
        PackedModel.load(saved, *tiny())


def test_other_configuration(saved: Path) -> None:
    with pytest.raises(PackedFileError, match=r"packed for configuration .* tiny with fp4"):
        PackedModel.load(saved, *tiny(outputs=8))
    with pytest.raises(PackedFileError, match=r"packed for configuration .* tiny with fp6"):
        PackedModel.load(saved, *tiny("fp6"))


def test_other_safetensors_file(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(PackedFileError, match="not a packed model"):
        PackedModel.load(path, *tiny())
