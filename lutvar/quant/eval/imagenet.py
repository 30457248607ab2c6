# SPDX-License-Identifier: Apache-2.0
"""The ImageNet protocol for released checkpoints: FID, Inception score, precision, recall.

50 images of each class with the settings of the checkpoint, against the reference batch of ADM.
Inception and the formulas are those of torch-fidelity; its network has the weights of the original
TensorFlow one. The published figures were computed with that original, so expect small differences.

Sources: P. Dhariwal, A. Nichol (arXiv:2105.05233), evaluation and reference batch; FID
(arXiv:1706.08500), Inception score (arXiv:1606.03498), precision and recall (arXiv:1904.06991).
"""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .frechet import need_samples
from .neighbours import NEIGHBOUR
from .store import ChunkStore

#: Width of the features.
FEATURES = 2048
_LAYERS = ("2048", "logits_unbiased")
_BATCH = 50
_SPLITS = 10
WEIGHTS_FILE = "weights-inception-2015-12-05-6726825d.pth"
_WEIGHTS_HASH = "6726825d"
_WEIGHTS_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/" + WEIGHTS_FILE
_ADM_URL = (
    "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet/256/"
    "VIRTUAL_imagenet256_labeled.npz"
)


class ProtocolError(ValueError):
    """A package or file of the protocol that is missing or is not what it should be."""


class Statistics(NamedTuple):
    """Mean [D] and covariance [D, D] of features, float64."""

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


class AdmReference(NamedTuple):
    """The reference batch: statistics of the training images, and some images [N, H, W, 3]."""

    statistics: Statistics
    images: NDArray[np.uint8]


@dataclass(frozen=True)
class ImagenetFigures:
    """Figures of one set of samples under the protocol."""

    fid: float
    inception_score: float
    inception_score_deviation: float
    precision: float
    recall: float
    samples: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def need_package() -> None:
    """Raise ProtocolError when torch-fidelity is not installed."""
    if importlib.util.find_spec("torch_fidelity") is None:
        raise ProtocolError(
            "the ImageNet protocol computes Inception features with torch-fidelity, which is not "
            "installed; run: pip install 'lutvar[eval]'"
        )


def find_weights(file: Path | None) -> Path:
    """The file of Inception's weights: the given one, or the one torch keeps downloads in.

    Raises:
        ProtocolError: no file, or one with other content.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS_FILE if file is None else file
    if not path.is_file():
        raise ProtocolError(
            f"{path}: no such file; the weights of Inception come from {_WEIGHTS_URL}, give the "
            "downloaded file with --weights"
        )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(_WEIGHTS_HASH):
        raise ProtocolError(
            f"{path}: SHA-256 is {digest}, that of {WEIGHTS_FILE} begins with {_WEIGHTS_HASH}; "
            f"download it again from {_WEIGHTS_URL}"
        )
    return path


def load_adm(path: Path | None) -> AdmReference:
    """Read a reference batch in ADM's form. Raises ProtocolError."""
    source = f"the reference batch comes from {_ADM_URL}"
    if path is None or not path.is_file():
        what = "no reference batch given" if path is None else f"{path}: no such file"
        raise ProtocolError(f"{what}; {source}, give the file with --reference")
    try:
        with np.load(path) as content:
            mu, sigma, images = (content[name] for name in ("mu", "sigma", "arr_0"))
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ProtocolError(f"{path}: not a reference batch ({error}); {source}") from error
    if mu.shape != (FEATURES,) or sigma.shape != (FEATURES, FEATURES) or images.dtype != np.uint8:
        raise ProtocolError(
            f"{path}: mu {mu.shape}, sigma {sigma.shape}, arr_0 of {images.dtype}; expected "
            f"[{FEATURES}], [{FEATURES}, {FEATURES}] and uint8; {source}"
        )
    return AdmReference(Statistics(mu.astype(np.float64), sigma.astype(np.float64)), images)


class Inception:
    """torch-fidelity's Inception with given weights."""

    def __init__(self, weights: Path, device: str = "cpu") -> None:
        need_package()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self._device = device
        self._network = FeatureExtractorInceptionV3(
            "inception-v3-compat", list(_LAYERS), feature_extractor_weights_path=str(weights)
        ).to(device)

    @torch.no_grad()
    def __call__(self, batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
        """Features [N, 2048] and logits [N, 1008] of batches of uint8 images [n, 3, H, W]."""
        parts = [
            tuple(t.cpu() for t in self._network(images.to(self._device)))
            for batch in batches
            for images in batch.split(_BATCH)
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def stored_images(store: ChunkStore, chunks: range, samples: int) -> Iterator[Tensor]:
    """The first `samples` images of a folder, chunk by chunk."""
    left = samples
    for chunk in chunks:
        images = store.read([chunk], ["images"])["images"][:left]
        left -= len(images)
        yield images


def measure(
    inception: Inception, batches: Iterable[Tensor], reference: AdmReference
) -> ImagenetFigures:
    """Figures of samples, uint8 [n, 3, H, W] a batch.

    Raises:
        ValueError: not more samples than features.
    """
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    features_ND, logits_NK = inception(batches)
    need_samples(len(features_ND), FEATURES)
    # From the HWC layout of the file, a part at a time.
    real = (torch.from_numpy(part).permute(0, 3, 1, 2) for part in _parts(reference.images))
    real_MD, _ = inception(real)
    statistics = fid_features_to_statistics(features_ND.double())
    fid = fid_statistics_to_metric(statistics, reference.statistics._asdict(), verbose=False)
    score = isc_features_to_metric(logits_NK, splits=_SPLITS, shuffle=False)
    share = prc_features_to_metric(
        features_ND, real_MD, prc_neighborhood=NEIGHBOUR, prc_batch_size=10_000,
        save_cpu_ram=True, verbose=False,
    )  # fmt: skip
    return ImagenetFigures(
        fid=fid["frechet_inception_distance"],
        inception_score=score["inception_score_mean"],
        inception_score_deviation=score["inception_score_std"],
        precision=share["precision"],
        recall=share["recall"],
        samples=len(features_ND),
    )


def _parts(images_NHWC: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for first in range(0, len(images_NHWC), _BATCH):
        yield images_NHWC[first : first + _BATCH]
