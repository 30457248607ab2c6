# SPDX-License-Identifier: Apache-2.0
"""The packing line of `lutvar bench`, with a small model in place of d30."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lutvar.bench import packing
from lutvar.cli.main import run
from lutvar.quant.models import load_model
from lutvar.quant.var import VarConfig, VqvaeConfig

VAR = VarConfig(
    depth=2, width=256, heads=4, patch_nums=(1, 2), num_classes=70, vocab=256, z_channels=32
)
VQVAE = VqvaeConfig(vocab=256, z_channels=32, ch=32, patch_nums=(1, 2))


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VarConfig, "official", lambda _name: VAR)
    monkeypatch.setattr(VqvaeConfig, "official", lambda _sides: VQVAE)


def test_the_random_model_is_one_that_commands_load(tmp_path: Path) -> None:
    packing.make_folder_of(tmp_path / "model", "d30")
    loaded = load_model(tmp_path / "model")
    assert loaded.info.name == "random-d30" and len(loaded.info.classes) == 70
    weight = loaded.var.blocks[1].get_parameter("attn.mat_qkv.weight")
    assert weight.shape == (768, 256) and 0.019 < float(weight.detach().std()) < 0.021


def test_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Sequence[str]] = []

    def here(command: Sequence[str]) -> packing.Figures:
        """The command in this process: a new one would not see the small sizes."""
        seen.append(command[3:])
        assert command[:3] == [sys.executable, "-m", "lutvar.cli.main"]
        assert run(list(command[3:])) == 0
        return packing.Figures(1.5 * len(seen), 1.0, 2.0 * len(seen))

    monkeypatch.setattr(packing, "watched", here)
    monkeypatch.setattr(packing, "CONFIG", "small-fp4")
    quantize, pack, memory = packing.packing_speed()
    assert [arguments[0] for arguments in seen] == ["quantize", "pack"]
    assert "--classes" not in seen[1], "all of them"
    assert (quantize.value, pack.value, memory.value) == (1.5, 3.0, 4.0)
    assert (pack.target, memory.target) == (180, 4) and quantize.target is None
    assert 0 < pack.detail["image GB"] < pack.detail["file GB"]


def test_a_command_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "RECIPE", "no-such-recipe")
    (line,) = packing.packing_speed()
    assert line.value is None and "no-such-recipe" in line.detail["error"]


def test_memory_of_a_process_is_its_own(tmp_path: Path) -> None:
    """What it fills counts, what it maps from a file does not."""
    fill = "import time; kept = b'x' * (96 << 20); time.sleep(0.3)"
    mapped = (
        "import mmap, sys, time\n"
        "with open(sys.argv[1], 'w+b') as file:\n"
        "    file.truncate(96 << 20)\n"
        "    area = mmap.mmap(file.fileno(), 0)\n"
        "    assert not any(area[i] for i in range(0, len(area), 4096))\n"
        "    time.sleep(0.3)\n"
    )
    found = packing.watched([sys.executable, "-c", fill])
    assert found.seconds > 0.3 and found.peak > 0.1 and 0 < found.processor < 10
    other = packing.watched([sys.executable, "-c", mapped, str(tmp_path / "file")])
    assert 0 < other.peak < 0.06
    with pytest.raises(RuntimeError, match="ValueError: no"):
        packing.watched([sys.executable, "-c", "raise ValueError('no')"])
    assert packing.anonymous(1 << 30) == 0
