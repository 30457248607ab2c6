# SPDX-License-Identifier: Apache-2.0
"""Reference statistics: what is in them, the shipped ones, and files that do not belong."""

from __future__ import annotations

import hashlib
import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from lutvar.quant.eval.frechet import frechet_distance
from lutvar.quant.eval.reference import (
    REFERENCE_FILE,
    load_reference,
    make_reference,
    read_reference,
    save_reference,
)
from lutvar.quant.models import ModelError, load_model
from lutvar.quant.models.classifier import load_classifier
from lutvar.quant.train.data import ImageSet, load_digits

SHIPPED = Path(str(files("lutvar.quant.models"))) / "digits"
CLASSIFIER = SHIPPED / "classifier.safetensors"


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    return load_digits()


def _parts(data: ImageSet) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        ((data.train_images + 1) / 2, data.train_labels),
        ((data.val_images + 1) / 2, data.val_labels),
    ]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(SHIPPED, tmp_path / "m"))


def test_shipped_statistics_are_those_of_the_data(digits: ImageSet) -> None:
    shipped = load_reference(load_model("digits"))
    made = make_reference(CLASSIFIER, *_parts(digits))
    assert (shipped.test.count, shipped.train.count) == (269, 1528)
    assert shipped.neighbours_ND.shape == (269, 64)
    for a, b in ((shipped.test, made.test), (shipped.train, made.train)):
        torch.testing.assert_close(a.mean_D, b.mean_D, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(a.cov_DD, b.cov_DD, rtol=1e-3, atol=1e-3)
    assert shipped.real.train_to_test == pytest.approx(made.real.train_to_test, rel=1e-4)
    figures = load_model("digits").info.figures
    assert shipped.real.train_to_test == pytest.approx(figures["frechet_real_train"], rel=1e-3)
    assert shipped.real.agreement == pytest.approx(figures["classifier_accuracy"], abs=1e-5)


def test_statistics_against_numpy(digits: ImageSet) -> None:
    made = make_reference(CLASSIFIER, *_parts(digits))
    with torch.no_grad():
        judge = load_classifier(CLASSIFIER)
        train, test = (judge.features(images) for images, _ in _parts(digits))
    np.testing.assert_allclose(made.test.mean_D, test.double().mean(0), rtol=1e-6)
    expected = np.cov(train.double().numpy(), rowvar=False)
    np.testing.assert_allclose(made.train.cov_DD, expected, rtol=1e-4, atol=1e-5)
    assert made.real.train_to_test == pytest.approx(frechet_distance(train, test), rel=1e-4)


def test_file_round_trip(digits: ImageSet, tmp_path: Path) -> None:
    made = make_reference(CLASSIFIER, *_parts(digits))
    save_reference(tmp_path / "r", made)
    read = read_reference(tmp_path / "r")
    assert torch.equal(read.neighbours_ND, made.neighbours_ND)
    torch.testing.assert_close(read.train.cov_DD, made.train.cov_DD, rtol=1e-6, atol=1e-6)
    assert (read.real, read.classifier_sha256) == (made.real, made.classifier_sha256)
    (tmp_path / "x").write_bytes(CLASSIFIER.read_bytes())
    with pytest.raises(ModelError, match="not a file of reference statistics"):
        read_reference(tmp_path / "x")


def test_too_few_images(digits: ImageSet) -> None:
    train, test = _parts(digits)
    with pytest.raises(ValueError, match="60 samples for 64 features"):
        make_reference(CLASSIFIER, train, (test[0][:60], test[1][:60]))


def _rehash(folder: Path, name: str) -> None:
    path = folder / "model.json"
    content = json.loads(path.read_text())
    content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(content))


def test_statistics_of_another_classifier(copied: Path) -> None:
    path = copied / "classifier.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    _rehash(copied, path.name)
    with pytest.raises(ModelError, match="was made with the classifier"):
        load_reference(load_model(copied))


def test_model_without_statistics(copied: Path) -> None:
    path = copied / "model.json"
    content = json.loads(path.read_text())
    del content["files"][REFERENCE_FILE]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match="has no reference statistics"):
        load_reference(load_model(copied))


def test_changed_statistics(copied: Path) -> None:
    path = copied / REFERENCE_FILE
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match=r"reference\.safetensors: SHA-256 is"):
        load_reference(load_model(copied))
