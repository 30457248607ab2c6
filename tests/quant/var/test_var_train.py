# SPDX-License-Identifier: Apache-2.0
"""Training: resuming gives the same result, interrupting is safe, a run leaves a model."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from lutvar.quant.eval.frechet import frechet_distance
from lutvar.quant.models import load_model
from lutvar.quant.train import data as data_module
from lutvar.quant.train.classifier import ClassifierStage
from lutvar.quant.train.data import ImageSet, augment, load_digits
from lutvar.quant.train.grow import deepened
from lutvar.quant.train.loop import Record, ResumeError, Stage, run_stage, seed_step
from lutvar.quant.train.muon import orthogonal
from lutvar.quant.train.plans import DIGITS, TrainPlan
from lutvar.quant.train.run import train
from lutvar.quant.train.var import VarStage
from lutvar.quant.train.vqvae import VqvaeStage
from lutvar.quant.var import Var, Vqvae

SMALL = replace(
    DIGITS,
    classifier_steps=3,
    vqvae=replace(DIGITS.vqvae, steps=4, batch=8),
    var=replace(DIGITS.var, config=replace(DIGITS.var.config, depth=1), steps=4, batch=8),
    samples=20,
)


@pytest.fixture(scope="module")
def digits() -> ImageSet:
    full = load_digits()
    train = full.train_images[:80], full.train_labels[:80]
    return ImageSet(*train, full.val_images, full.val_labels)


def test_digits_data() -> None:
    full = load_digits()
    assert full.train_images.shape == (1528, 1, 8, 8) and full.val_images.shape == (269, 1, 8, 8)
    assert full.train_images.unique().tolist() == [i / 8 - 1 for i in range(17)]
    assert len(full.val_labels.unique()) == 10
    together = torch.cat((full.train_images, full.val_images)).sum()
    assert abs(together.item() - (561718 / 8 - 1797 * 64)) < 1


def test_missing_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install 'lutvar\[train\]'"):
        data_module.load_digits()


def test_augment_keeps_range_and_background(digits: ImageSet) -> None:
    torch.manual_seed(0)
    images = digits.train_images
    assert augment(images, 0, 0, 0) is images
    moved = augment(images, 10, 0.1, 0.5)
    assert moved.min() >= -1 and moved.max() <= 1
    assert 0.05 < (moved - images).abs().mean() < 0.5
    assert torch.equal(
        augment(torch.full_like(images, -1), 30, 0.2, 2), torch.full_like(images, -1)
    )


def make(kind: str, digits: ImageSet) -> Stage:
    seed_step(0, kind, -1)
    if kind == "classifier":
        return ClassifierStage(digits, 4)
    if kind == "vqvae":
        return VqvaeStage(digits, replace(SMALL.vqvae, steps=4, restart_every=2))
    plan = replace(SMALL.var, steps=4)
    if kind == "growing":
        # Grows before the step after which the interrupted run is saved.
        config = replace(plan.config, depth=2)
        plan = replace(
            plan,
            config=config,
            muon=True,
            grow_at=2,
            short_steps=True,
            flip=True,
            degrees=0.0,
            stretch=0.0,
            shift=0.0,
        )
    return VarStage(digits, Vqvae(SMALL.vqvae.config), plan)


@pytest.mark.parametrize("shape", [(8, 32), (32, 8), (16, 16)])
def test_orthogonal_keeps_singular_vectors(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    found = u.T @ orthogonal(matrix) @ vt.T
    values = found.diagonal()
    assert (values > 0.6).all() and (values < 1.25).all()
    assert torch.allclose(found, torch.diag(values), atol=1e-8)


def test_deepened_model_computes_nearly_the_same() -> None:
    torch.manual_seed(0)
    model = Var(replace(SMALL.var.config, depth=2, drop_rate=0.0)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.ada_lin[-1].weight.normal_(0, 0.02)
        model.head.weight.normal_(0, 0.05)
    labels, inputs = torch.tensor([1, 2]), torch.randn(2, model.config.tokens - 1, 8)
    deep = deepened(model).eval()
    with torch.no_grad():
        before, after = model(labels, inputs), deep(labels, inputs)
        fresh = Var(deep.config).eval()(labels, inputs)
    assert deep.config.depth == 4
    error = (after - before).norm() / before.norm()
    assert 0 < error < 0.05 < (fresh - before).norm() / before.norm()
    with pytest.raises(ValueError, match="shared_adaln"):
        deepened(Var(replace(SMALL.var.config, shared_adaln=True)))


def flat(state: Any) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        return [t for v in state.values() for t in flat(v)]
    return [t for v in state for t in flat(v)] if isinstance(state, list) else []


class Interrupting:
    """Passes everything on to a stage, and has Ctrl-C pressed during one of its steps."""

    def __init__(self, stage: Stage, at: int) -> None:
        self.stage, self.at = stage, at
        self.name, self.steps, self.fingerprint = stage.name, stage.steps, stage.fingerprint

    def step(self, index: int) -> Record:
        if index == self.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.stage.step(index)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stage, name)


@pytest.mark.parametrize("kind", ["classifier", "vqvae", "var", "growing"])
def test_interrupted_and_resumed_equals_uninterrupted(
    kind: str, digits: ImageSet, tmp_path: Path, ctrl_c: None
) -> None:
    straight = make(kind, digits)
    reference = run_stage(straight, tmp_path, 0, progress=False)
    (tmp_path / f"{straight.name}.state").unlink()
    with pytest.raises(KeyboardInterrupt, match="saved at step 3"):
        run_stage(Interrupting(make(kind, digits), at=2), tmp_path, 0, progress=False)
    # A new process would start from other weights; the saved ones replace them.
    torch.manual_seed(99)
    resumed = make(kind, digits)
    for tensor in flat(resumed.state()):
        if tensor.is_floating_point():
            tensor.add_(1)
    run = run_stage(resumed, tmp_path, 0, progress=False)
    assert run.history == reference.history and run.done == 4
    pairs = list(zip(flat(straight.state()), flat(resumed.state()), strict=True))
    assert pairs and all(torch.equal(a, b) for a, b in pairs)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_state_of_another_plan_or_damaged(digits: ImageSet, tmp_path: Path) -> None:
    run_stage(ClassifierStage(digits, 2), tmp_path, 0, progress=False)
    with pytest.raises(ResumeError, match=r"other settings.*steps=2.*seed=0; now.*steps=3"):
        run_stage(ClassifierStage(digits, 3), tmp_path, 0, progress=False)
    with pytest.raises(ResumeError, match="other settings"):
        run_stage(ClassifierStage(digits, 2), tmp_path, 1, progress=False)
    path = tmp_path / "classifier.state"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ResumeError, match="damaged"):
        run_stage(ClassifierStage(digits, 2), tmp_path, 0, progress=False)
    assert (
        run_stage(ClassifierStage(digits, 2), tmp_path, 1, resume=False, progress=False).done == 2
    )


def test_frechet_distance_of_known_gaussians() -> None:
    torch.manual_seed(0)
    a = torch.randn(20000, 3)
    # Means 3 apart: 9. Deviations 1 and 2 in 3 dimensions: 3 * (1 - 2)^2.
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a, a + torch.tensor([3.0, 0, 0])) == pytest.approx(9, rel=1e-4)
    assert frechet_distance(a, 2 * torch.randn(20000, 3)) == pytest.approx(3, rel=0.1)


@pytest.mark.slow
def test_whole_run(digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lutvar.quant.train.run.load_digits", lambda: digits)
    plan: TrainPlan = SMALL
    model = train(tmp_path, seed=3, plan=plan, progress=False)
    assert model.info.name == "digits" and model.info.figures["samples"] == 20
    assert model.var.config.drop_rate == 0 and model.var.config.depth == 1
    assert torch.equal(model.var.head.weight, model.var.head.weight.half().float())
    assert (model.info.cfg, model.info.top_p) == (plan.cfg, plan.top_p)
    for name in ("curves.png", "samples.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    assert "lutvar train --model digits --seed 3" in (tmp_path / "MODEL_CARD.md").read_text()
    weights = (tmp_path / "var.safetensors").read_bytes()
    description = (tmp_path / "model.json").read_bytes()
    # Everything is done, so this only measures again; from scratch it trains the same model.
    train(tmp_path, seed=3, plan=plan, progress=False)
    assert (tmp_path / "model.json").read_bytes() == description
    train(tmp_path, seed=3, plan=plan, resume=False, progress=False)
    assert (tmp_path / "var.safetensors").read_bytes() == weights
    assert load_model(tmp_path).classifier().out.weight.shape == (10, 64)
