# SPDX-License-Identifier: Apache-2.0
"""The network for 32x32 images: size, folding of batch norm, files, training stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lutvar.quant.models.classifier import (
    DigitClassifier,
    agreement,
    load_classifier,
    save_classifier,
)
from lutvar.quant.models.features import FeatureNet
from lutvar.quant.models.judge import features_in_parts
from lutvar.quant.train.classifier import ClassifierStage
from lutvar.quant.train.data import ImageSet, load_digits
from lutvar.quant.train.features import FeatureStage, NormedNet, judge_stage, shifted
from lutvar.quant.train.loop import run_stage, seed_step


def _images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes told apart by their colour."""
    labels = torch.arange(count) % 10
    level = (labels / 9)[:, None, None, None]
    noise = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
    images = 0.8 * torch.cat((level, 1 - level, level * (1 - level)), 1) + 0.2 * noise
    return images * 2 - 1, labels


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return ImageSet(*_images(200), *_images(50))


def test_size_and_shapes() -> None:
    net = FeatureNet().eval()
    assert sum(p.numel() for p in net.parameters()) <= 150_000
    images = torch.rand(7, *FeatureNet.image_shape)
    with torch.no_grad():
        features = net.features(images)
        assert features.shape == (7, 64) and net(images).shape == (7, 10)
        assert torch.equal(net.classify(features), net(images))
        # Not to the last bit: batches of other sizes round differently.
        torch.testing.assert_close(features_in_parts(net, images, 3), features)


def test_folded_batch_norm_is_the_same_function() -> None:
    torch.manual_seed(1)
    net = NormedNet()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    images = torch.rand(20, 3, 32, 32)
    net.train()
    for _ in range(3):  # running statistics that are not the starting ones
        net(images)
    net.eval()
    with torch.no_grad():
        torch.testing.assert_close(net.folded()(images), net(images), rtol=1e-4, atol=1e-4)


def test_training_learns_and_resumes(data: ImageSet, tmp_path: Path) -> None:
    torch.set_num_threads(1)

    def stage() -> FeatureStage:
        seed_step(0, FeatureStage.name, -1)
        return FeatureStage(data, steps=30, batch=20, lr=0.05)

    whole = stage()
    run = run_stage(whole, tmp_path, 0, progress=False)
    assert run.history[-1]["val_accuracy"] > 0.3  # 0.1 by chance
    first = stage()
    for index in range(10):
        seed_step(0, first.name, index)
        first.step(index)
    second = stage()
    second.load(first.state())
    for index in range(10, 30):
        seed_step(0, second.name, index)
        second.step(index)
    for a, b in zip(whole.result().parameters(), second.result().parameters(), strict=True):
        assert torch.equal(a, b)


def test_files_name_their_network(tmp_path: Path) -> None:
    for made in (FeatureNet(), DigitClassifier()):
        save_classifier(tmp_path / "c", made)
        read = load_classifier(tmp_path / "c")
        assert type(read) is type(made) and not read.training
        for a, b in zip(read.parameters(), made.parameters(), strict=True):
            assert torch.equal(a, b.half().float())
    assert (tmp_path / "c").stat().st_size < 300_000
    save_file({"w": torch.zeros(1)}, tmp_path / "x", {"lutvar": '{"classifier": "other"}'})
    with pytest.raises(ValueError, match="kind 'other'; known are digits, features"):
        load_classifier(tmp_path / "x")


def test_the_judge_fits_the_images(data: ImageSet) -> None:
    assert isinstance(judge_stage(data, 1), FeatureStage)
    assert isinstance(judge_stage(load_digits(), 1), ClassifierStage)
    wrong = ImageSet(torch.zeros(4, 1, 16, 16), torch.zeros(4), *data[2:])
    with pytest.raises(ValueError, match=r"images of shape \(1, 16, 16\)"):
        judge_stage(wrong, 1)


def test_shifts_are_by_whole_pixels() -> None:
    torch.manual_seed(0)
    image = torch.rand(1, 3, 8, 8)
    moved = shifted(image.repeat(200, 1, 1, 1), 2)
    # The middle of the image is found whole at each of the 25 offsets, and at no other.
    offsets = set()
    for picture in moved:
        at = [
            (y, x) for y in range(5) for x in range(5)
            if torch.equal(picture[:, y : y + 4, x : x + 4], image[0, :, 2:6, 2:6])
        ]  # fmt: skip
        assert len(at) == 1
        offsets.add(at[0])
    assert len(offsets) == 25


def test_agreement(data: ImageSet) -> None:
    net = FeatureNet().eval()
    with torch.no_grad():
        guess = net(data.val_images / 2 + 0.5).argmax(1)
    assert agreement(net, data.val_images / 2 + 0.5, guess) == 1
    assert agreement(net, data.val_images / 2 + 0.5, (guess + 1) % 10) == 0
