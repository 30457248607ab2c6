# SPDX-License-Identifier: Apache-2.0
"""The ImageNet protocol: its files, and its figures where torch-fidelity is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from lutvar.quant.eval import imagenet
from lutvar.quant.eval.imagenet import FEATURES, AdmReference, Inception, ProtocolError, Statistics
from lutvar.quant.eval.settings import SampleSettings
from lutvar.quant.eval.store import ChunkStore
from lutvar.quant.models import ModelError, load_model


def _batch(path: Path, **changed: np.ndarray) -> Path:
    content = {
        "mu": np.zeros(FEATURES, np.float32), "sigma": np.eye(FEATURES, dtype=np.float32),
        "arr_0": np.zeros((2, 4, 4, 3), np.uint8),
    }  # fmt: skip
    np.savez(path, **(content | changed))
    return path


def test_reference_batch(tmp_path: Path) -> None:
    found = imagenet.load_adm(_batch(tmp_path / "a.npz"))
    assert found.statistics.mu.dtype == found.statistics.sigma.dtype == np.float64
    assert found.images.shape == (2, 4, 4, 3)
    with pytest.raises(ProtocolError, match=r"no reference batch given; .*VIRTUAL_imagenet256"):
        imagenet.load_adm(None)
    with pytest.raises(ProtocolError, match="no such file"):
        imagenet.load_adm(tmp_path / "b.npz")
    with pytest.raises(ProtocolError, match=r"mu \(3,\).*expected \[2048\]"):
        imagenet.load_adm(_batch(tmp_path / "c.npz", mu=np.zeros(3)))
    (tmp_path / "d.npz").write_bytes(b"text")
    with pytest.raises(ProtocolError, match="not a reference batch"):
        imagenet.load_adm(tmp_path / "d.npz")


def test_images_come_back_in_order(tmp_path: Path) -> None:
    store = ChunkStore(tmp_path, {})
    for chunk in range(3):
        images = torch.arange(4 * chunk, 4 * chunk + 4, dtype=torch.uint8)
        store.write(chunk, {"images": images[:, None, None, None]})
    parts = list(imagenet.stored_images(store, range(3), 10))
    assert torch.cat(parts).flatten().tolist() == list(range(10))


def test_settings_of_the_protocol() -> None:
    info = load_model("digits").info
    kept = SampleSettings.of(info, 1.5, 90, 0.96, keep_images=True)
    assert (kept.cfg, kept.top_k, kept.top_p, kept.keep_images) == (1.5, 90, 0.96, True)


def test_released_checkpoint_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"var_d16\.pth: missing"):
        load_model(tmp_path / "var_d16.pth")
    (tmp_path / "var_d16.pth").write_bytes(b"")
    with pytest.raises(ModelError, match=r"vae_ch160v4096z32\.pth: missing"):
        load_model(tmp_path / "var_d16.pth")


class _Measured:
    """Stands where Inception does: features and logits that are known."""

    def __init__(self, sampled: torch.Tensor, real: torch.Tensor) -> None:
        self.results = [sampled, real]

    def __call__(self, batches: object) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.results.pop(0)
        return features, features[:, :1008]


def test_figures_of_known_features(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity")
    monkeypatch.setattr(imagenet, "FEATURES", 16)
    made = torch.randn(200, 16, generator=torch.Generator().manual_seed(1)) * 1.2 + 0.1
    real = torch.randn(150, 16, generator=torch.Generator().manual_seed(2))
    statistics = Statistics(
        real.double().numpy().mean(0), np.cov(real.double().numpy(), rowvar=False)
    )
    reference = AdmReference(statistics, np.zeros((1, 2, 2, 3), np.uint8))
    found = imagenet.measure(_Measured(made, real), [], reference)  # type: ignore[arg-type]
    x = made.double().numpy()
    cov = np.cov(x, rowvar=False)
    root = sqrtm(cov @ statistics.sigma).real
    expected = ((x.mean(0) - statistics.mu) ** 2).sum()
    expected += np.trace(cov + statistics.sigma - 2 * root)
    assert found.fid == pytest.approx(expected, rel=1e-5)
    assert 1 < found.inception_score < 16 and found.samples == 200
    assert 0 < found.recall <= 1 and 0 < found.precision <= 1
    with pytest.raises(ValueError, match="16 samples for 16 features"):
        imagenet.measure(_Measured(made[:16], real), [], reference)  # type: ignore[arg-type]


def test_inception_runs_on_any_size(tmp_path: Path) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    saved: dict[str, torch.Tensor] = {}

    class Filled(module.FeatureExtractorInceptionV3):  # type: ignore[name-defined]
        def load_state_dict(self, state: object, *args: object, **kwargs: object) -> None:
            saved.update(self.state_dict())

    torch.save({}, tmp_path / "none")
    torch.manual_seed(0)
    Filled("n", ["2048"], feature_extractor_weights_path=str(tmp_path / "none"))
    torch.save(saved, tmp_path / "w")
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    features, logits = Inception(tmp_path / "w")([images[:2], images[2:]])
    assert features.shape == (3, 2048) and logits.shape == (3, 1008)
    assert torch.isfinite(features).all() and not torch.equal(features[0], features[1])
