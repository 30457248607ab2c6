# SPDX-License-Identifier: Apache-2.0
"""Figures of feature sets against independent computations, and their refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import softmax
from scipy.stats import bootstrap, entropy

from lutvar.quant.eval.frechet import frechet_distance, gaussian, need_samples
from lutvar.quant.eval.intervals import interval
from lutvar.quant.eval.neighbours import covered, precision_recall
from lutvar.quant.eval.scores import class_agreement, class_score


def _features(seed: int, count: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=generator)
    x = torch.randn(count, width, generator=generator) @ mixed
    return x + torch.randn(width, generator=generator)


@pytest.mark.parametrize("width", [1, 5, 64])
def test_frechet_distance_against_a_matrix_square_root(width: int) -> None:
    a, b = _features(1, 300, width), _features(2, 200, width)
    x, y = a.double().numpy(), b.double().numpy()
    cov_x, cov_y = (np.cov(v, rowvar=False).reshape(width, width) for v in (x, y))
    root = sqrtm(cov_x @ cov_y)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root.real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9 * np.trace(cov_x))


def test_frechet_distance_takes_singular_covariances() -> None:
    a = torch.cat((_features(1, 100, 3), torch.zeros(100, 2)), 1)
    shift = torch.tensor([0.0, 0, 0, 2, 0])
    assert frechet_distance(a, a + shift) == pytest.approx(4, rel=1e-6)


def test_too_few_samples() -> None:
    need_samples(65, 64)
    with pytest.raises(ValueError, match=r"64 samples for 64 features: .* 65 or more"):
        need_samples(64, 64)
    with pytest.raises(ValueError, match="1 samples: a covariance needs two or more"):
        gaussian(torch.zeros(1, 4))
    with pytest.raises(ValueError, match="not finite"):
        gaussian(torch.tensor([[0.0], [math.nan], [1.0]]))


def test_score_against_scipy() -> None:
    logits = 3 * torch.randn(57, 7, generator=torch.Generator().manual_seed(0))
    found = class_score(logits, splits=4)
    expected = []
    for part in np.array_split(logits.double().numpy(), 4):
        p = softmax(part, axis=1)
        expected.append(np.exp(np.mean([entropy(row, p.mean(0)) for row in p])))
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-9)
    assert found.deviation == pytest.approx(np.std(expected), rel=1e-9)


def test_score_limits_and_splits() -> None:
    sure = 1000.0 * torch.eye(10).repeat(100, 1)
    assert class_score(sure).mean == pytest.approx(10)
    assert class_score(torch.zeros(20, 10)).mean == pytest.approx(1)
    assert (class_score(sure).splits, class_score(sure[:999]).splits) == (10, 1)
    with pytest.raises(ValueError, match="splits = 3: from 1 to the number of samples, 2"):
        class_score(torch.zeros(2, 10), splits=3)


def test_class_agreement() -> None:
    assert class_agreement(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75


def _covered_by_hand(points: np.ndarray, known: np.ndarray, k: int) -> float:
    inside = 0
    for p in points:
        for i, q in enumerate(known):
            others = sorted(np.sqrt(((np.delete(known, i, 0) - q) ** 2).sum(1)))
            if np.sqrt(((p - q) ** 2).sum()) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_against_loops(k: int) -> None:
    real = torch.randn(80, 3, generator=torch.Generator().manual_seed(1))
    made = 0.8 * torch.randn(90, 3, generator=torch.Generator().manual_seed(2)) + 0.9
    found = precision_recall(made, real, k)
    x, y = made[:80].double().numpy(), real.double().numpy()
    assert found.precision == pytest.approx(_covered_by_hand(x, y, k))
    assert found.recall == pytest.approx(_covered_by_hand(y, x, k))
    assert found.points == 80
    assert 0.1 < found.recall < found.precision < 1


def test_precision_and_recall_of_known_sets() -> None:
    real = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    assert precision_recall(real, real)[:2] == (1, 1)
    assert precision_recall(real + 100, real)[:2] == (0, 0)
    # All samples are one real image: precise, and they cover no other one.
    one = real[:1].repeat(50, 1)
    assert precision_recall(one, real)[:2] == (1, 1 / 50)
    # More rows than are compared at a time.
    many = torch.randn(2500, 2, generator=torch.Generator().manual_seed(2))
    assert covered(many, many, 3) == 1
    with pytest.raises(ValueError, match=r"3 points: the 3\. neighbour"):
        precision_recall(real[:3], real)


def test_intervals() -> None:
    # Student's own example, the additional hours of sleep.
    sleep = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = interval(sleep)
    assert found.mean == pytest.approx(2.33)
    assert found.half_width == pytest.approx(2.262157 * 2.002249 / math.sqrt(10), rel=1e-5)
    near = bootstrap((sleep,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    assert found.mean + found.half_width == pytest.approx(near.high, rel=0.15)
    assert interval([2.0]).half_width is None
    assert interval([math.inf, 3.0]) == (type(found))(math.inf, None, 2)
    with pytest.raises(ValueError, match="no values"):
        interval([])
