# SPDX-License-Identifier: Apache-2.0
"""The model that comes with the package, and the errors of `load_model`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from lutvar.quant.models import LoadedModel, ModelError, known_models, load_model
from lutvar.quant.models.classifier import agreement
from lutvar.quant.var import generate

SHIPPED = Path(str(files("lutvar.quant.models"))) / "digits"


@pytest.fixture(scope="module")
def digits() -> LoadedModel:
    return load_model("digits")


def test_samples_are_the_requested_digits(digits: LoadedModel) -> None:
    info = digits.info
    labels = torch.arange(200) % 10
    result = generate(
        digits.var, digits.vqvae, labels, 1, cfg=info.cfg, top_k=info.top_k, top_p=info.top_p
    )
    assert result.images_BCHW.shape == (200, 1, 8, 8)
    assert agreement(digits.classifier(), result.images_BCHW, labels) >= 0.95
    # Without the class there is no reason for the label to be met.
    free = generate(digits.var, digits.vqvae, [-1] * 200, 1, top_p=info.top_p)
    assert agreement(digits.classifier(), free.images_BCHW, labels) < 0.3


def test_shipped_size_and_rounding(digits: LoadedModel) -> None:
    names = ("var.safetensors", "vqvae.safetensors")
    assert sum((SHIPPED / n).stat().st_size for n in names) < 3_000_000
    assert all(torch.equal(p, p.half().float()) for p in digits.var.parameters())
    assert not digits.var.training and not digits.vqvae.training
    assert set(digits.info.files) <= {p.name for p in SHIPPED.iterdir()}


def test_cifar10_is_what_its_card_says() -> None:
    model = load_model("cifar10")
    config = model.var.config
    assert config.width >= 256 and config.width % 128 == 0 and config.depth >= 8
    assert len(config.patch_nums) >= 6 and config.attn_l2_norm and not config.shared_adaln
    info = model.info
    labels = torch.arange(40) % 10
    result = generate(
        model.var, model.vqvae, labels, 0, cfg=info.cfg, top_k=info.top_k, top_p=info.top_p
    )
    assert result.images_BCHW.shape == (40, 3, 32, 32)
    # Far above the untrained model's ln 512 = 6.2 nat, in likelihood.
    tokens = torch.cat(result.tokens, 1)
    with torch.no_grad():
        logits = model.var(labels, model.vqvae.quantize.teacher_inputs(result.tokens))
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens.flatten())
    assert loss < 4 and info.figures["val_loss"] < 3.6
    assert model.classifier().image_shape == (3, 32, 32)


def test_all_shipped_weights_fit_in_ten_megabytes() -> None:
    stored = [p for p in SHIPPED.parent.rglob("*.safetensors*")]
    assert len(stored) >= 8 and sum(p.stat().st_size for p in stored) < 10_000_000


def test_unknown_name() -> None:
    assert "digits" in known_models()
    with pytest.raises(ModelError, match=r"unknown model 'digit': known are cifar10, digits"):
        load_model("digit")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "m"))


def test_folder_is_a_model(copied: Path, digits: LoadedModel) -> None:
    loaded = load_model(copied)
    assert torch.equal(loaded.var.head.weight, digits.var.head.weight)


def test_changed_file(copied: Path) -> None:
    path = copied / "var.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"var\.safetensors: SHA-256 is .* model\.json says"):
        load_model(copied)
    path.unlink()
    with pytest.raises(ModelError, match=r"var\.safetensors: missing"):
        load_model(copied)


def test_bad_description(copied: Path) -> None:
    path = copied / "model.json"
    good = json.loads(path.read_text())
    path.write_text("{")
    with pytest.raises(ModelError, match="not a usable model description"):
        load_model(copied)
    path.write_text(json.dumps({k: v for k, v in good.items() if k != "sampling"}))
    with pytest.raises(ModelError, match="KeyError\\('sampling'\\)"):
        load_model(copied)
    path.write_text(json.dumps(good | {"format": 99}))
    with pytest.raises(ModelError, match="format 99, this version of lutvar reads 1"):
        load_model(copied)


def test_model_without_classifier(digits: LoadedModel) -> None:
    model = replace(digits, info=replace(digits.info, files={}))
    with pytest.raises(ModelError, match="has no classifier"):
        model.classifier()
