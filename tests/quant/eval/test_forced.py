# SPDX-License-Identifier: Apache-2.0
"""Given tokens: the scale-by-scale pass, distances of logits and layers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lutvar.quant.eval.figures import paired_figures
from lutvar.quant.eval.forced import force
from lutvar.quant.eval.methods import unchanged, with_backend
from lutvar.quant.eval.subject import Subject, SubjectName, load_subject
from lutvar.quant.golden.distance import kl_divergence, snr_db
from lutvar.quant.var import FloatLinear, LinearSite, Var, generate
from lutvar.quant.var.forcing import forced_logits

LABELS = torch.arange(24) % 10


@pytest.fixture(scope="module")
def subject() -> Subject:
    return load_subject(SubjectName("digits"))


@pytest.fixture(scope="module")
def tokens(subject: Subject) -> Tensor:
    made = generate(subject.model.var, subject.model.vqvae, LABELS, 5)
    return torch.cat(made.tokens, 1).int()


class _OneLinear:
    """Adds noise of 1 % to the output of one linear."""

    def __init__(self, site: LinearSite) -> None:
        self.site = site

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        y = FloatLinear()(site, x_BLC, weight_OI, bias_O)
        return 1.01 * y if site == self.site else y


def test_scale_by_scale_is_the_masked_pass(subject: Subject, tokens: Tensor) -> None:
    var, vqvae = subject.model.var, subject.model.vqvae
    seen: list[int] = []
    var.step_hook = seen.append
    try:
        with torch.no_grad():
            logits = forced_logits(var, vqvae, LABELS, tokens)
    finally:
        var.step_hook = None
    assert seen == [0, 1, 2, 3]
    parts = list(tokens.long().split([1, 4, 9, 16], 1))
    with torch.no_grad():
        expected = var(LABELS, vqvae.quantize.teacher_inputs(parts))
    assert [t.shape[1] for t in logits] == [1, 4, 9, 16]
    torch.testing.assert_close(torch.cat(logits, 1), expected, rtol=1e-4, atol=1e-4)


def test_a_model_is_no_distance_from_itself(subject: Subject, tokens: Tensor) -> None:
    seen: list[tuple[int, int]] = []
    found = force(subject, LABELS, tokens, lambda *at: seen.append(at))
    assert (found.kl_nats, found.top1, found.images) == (0, 1, 24)
    assert found.kl_nats_of_scale == (0, 0, 0, 0)
    assert set(found.through_snr_db.values()) == set(found.own_snr_db.values()) == {math.inf}
    assert found.logits_snr_db == math.inf
    assert seen == [(20, 24), (24, 24)]


def test_noise_in_one_linear(subject: Subject, tokens: Tensor) -> None:
    """It shows at this linear alone, and in all that comes after it."""
    site = LinearSite(2, "proj")
    noisy = replace(subject, install=lambda var: with_backend(var, _OneLinear(site)))
    found = force(noisy, LABELS, tokens)
    assert subject.model.var.linear_backend.__class__ is FloatLinear
    assert found.own_snr_db.pop("block2.proj") == pytest.approx(40, abs=0.01)
    assert set(found.own_snr_db.values()) == {math.inf}
    before, after = ["block0.fc2", "block1.fc2", "block2.qkv"], ["block2.fc1", "block3.qkv", "head"]
    # The first scale's rows of earlier blocks are untouched, and so is the input of later scales.
    assert all(found.through_snr_db[k] == math.inf for k in before)
    assert found.through_snr_db["block2.proj"] == pytest.approx(40, abs=0.01)
    assert all(found.through_snr_db[k] < 70 for k in after)
    # Logits and their distances, computed in one piece.
    var, vqvae = subject.model.var, subject.model.vqvae
    with torch.no_grad():
        exact = forced_logits(var, vqvae, LABELS, tokens)
        with noisy.installed():
            value = forced_logits(var, vqvae, LABELS, tokens)
    whole = torch.cat(exact, 1), torch.cat(value, 1)
    assert found.kl_nats == pytest.approx(kl_divergence(*whole), rel=1e-3)
    assert found.logits_snr_db == pytest.approx(snr_db(*whole), rel=1e-4)
    for i, pair in enumerate(zip(exact, value, strict=True)):
        assert found.kl_nats_of_scale[i] == pytest.approx(kl_divergence(*pair), rel=1e-3)


def test_a_method_sees_the_scales_and_is_taken_out(subject: Subject, tokens: Tensor) -> None:
    """A method with a hook of its own: called at every scale of every pass, gone afterwards."""
    scales: list[int] = []

    @contextmanager
    def install(var: Var) -> Iterator[None]:
        var.step_hook = scales.append
        with unchanged(var):
            yield

    found = force(replace(subject, install=install), LABELS[:3], tokens[:3])
    assert scales == [0, 1, 2, 3] * 2  # compared with the float pass, then each linear alone
    assert subject.model.var.step_hook is None
    assert found.kl_nats == 0


def test_paired_figures(subject: Subject, tokens: Tensor) -> None:
    vqvae = subject.model.vqvae
    features = torch.randn(24, 64, generator=torch.Generator().manual_seed(0))
    same = paired_figures(vqvae, (features, tokens), (features, tokens))
    assert (same.feature_mse, same.psnr_db, same.tokens, same.equal_images) == (0, 60, 1, 1)
    assert same.psnr_pooled_db == math.inf and same.frechet == pytest.approx(0, abs=1e-6)
    # Half of the images change their last 16 tokens.
    other = tokens.clone()
    other[:12, 14:] = (other[:12, 14:] + 1) % 96
    found = paired_figures(vqvae, (features, tokens), (features + 2, other))
    assert found.feature_mse == pytest.approx(4) and found.frechet == pytest.approx(64 * 4)
    assert found.equal_images == 0.5
    assert found.tokens_of_scale == (1, 1, 1, 0.5)
    assert found.tokens == pytest.approx(1 - 0.5 * 16 / 30)
    decoded = [vqvae.decode(list(t.long().split([1, 4, 9, 16], 1))) for t in (tokens, other)]
    error = (decoded[0] - decoded[1]).square().mean((1, 2, 3))
    psnr = -10 * error[:12].log10()
    assert found.psnr_db == pytest.approx(float((psnr.sum() + 12 * 60) / 24), rel=1e-5)
    assert found.psnr_pooled_db == pytest.approx(float(-10 * error.mean().log10()), rel=1e-5)


def test_fingerprints(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal for equal methods, another one for another method or changed code."""
    names = ["float", "preset:fp4", "preset:fp6", "fpqvar-fp4-no-galt"]
    first = [load_subject(SubjectName("digits", n)).fingerprint for n in names]
    assert first == [load_subject(SubjectName("digits", n)).fingerprint for n in names]
    assert len(set(first)) == 4
    call = FloatLinear.__call__
    monkeypatch.setattr(FloatLinear, "__call__", lambda *a: call(*a) + 1e-6)
    assert load_subject(SubjectName("digits")).fingerprint != first[0]
    assert first[0] == subject.fingerprint
