# SPDX-License-Identifier: Apache-2.0
"""What samples are compared with: statistics of the real images' features, shipped with a model.

The real images themselves are not needed to evaluate. One safetensors file holds mean and
covariance of the features of the test and of the training images, the features of some test images
for precision and recall, the figures that the training images reach themselves (the values to hope
for), and the hash of the classifier whose features they are.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lutvar.files import json_text, write_file
from lutvar.quant.models import LoadedModel, ModelError
from lutvar.quant.models.classifier import load_classifier
from lutvar.quant.models.judge import features_in_parts
from lutvar.quant.var.tensors import tensor_bytes

from .frechet import Gaussian, distance, gaussian, need_samples
from .neighbours import precision_recall
from .scores import class_agreement, class_score

#: Name of the file in a model folder.
REFERENCE_FILE = "reference.safetensors"
#: Test images whose features are kept, at most; in float16 that is 307 kB at 64 features.
NEIGHBOURS = 2400
_METADATA = "lutvar"


@dataclass(frozen=True)
class RealFigures:
    """What real images reach under the same measures.

    Attributes:
        train_to_test: Fréchet distance of the training images to the test images.
        score: class score of the test images.
        agreement: share of test images that the classifier gets right, its accuracy.
        precision, recall: of training images, as if they were samples, against test images.
    """

    train_to_test: float
    score: float
    agreement: float
    precision: float
    recall: float


@dataclass(frozen=True)
class Reference:
    """Statistics of real images for one classifier.

    Attributes:
        test, train: Gaussians of the features of all test and training images.
        neighbours_ND: features of test images, for precision and recall.
        real: figures of the real images themselves.
        classifier_sha256: hash of the classifier's file.
    """

    test: Gaussian
    train: Gaussian
    neighbours_ND: Tensor
    real: RealFigures
    classifier_sha256: str


def make_reference(
    classifier: Path,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
) -> Reference:
    """Measure real images with a classifier's file.

    Args:
        classifier: file that `save_classifier` wrote.
        train, test: images [N, C, H, W] in [0, 1] and labels [N]; in random order.

    Raises:
        ValueError: not more images than features.
    """
    judge = load_classifier(classifier)
    train_ND, test_ND = (features_in_parts(judge, images) for images, _ in (train, test))
    # As it is stored, so that a saved file gives the same figures.
    sample_ND = test_ND[:NEIGHBOURS].half().float()
    need_samples(min(len(train_ND), len(test_ND)), judge.width)
    with torch.no_grad():
        logits_NK = judge.classify(test_ND)
    share = precision_recall(train_ND, sample_ND)
    gaussians = gaussian(train_ND), gaussian(test_ND)
    return Reference(
        test=gaussians[1],
        train=gaussians[0],
        neighbours_ND=sample_ND,
        real=RealFigures(
            train_to_test=distance(*gaussians),
            score=class_score(logits_NK).mean,
            agreement=class_agreement(logits_NK, test[1]),
            precision=share.precision,
            recall=share.recall,
        ),
        classifier_sha256=_sha256(classifier),
    )


def save_reference(path: Path, reference: Reference) -> None:
    """Write to a safetensors file, atomically."""
    tensors = {"neighbours": reference.neighbours_ND.half().contiguous()}
    for name, part in (("test", reference.test), ("train", reference.train)):
        tensors |= {f"{name}.mean": part.mean_D.float(), f"{name}.cov": part.cov_DD.float()}
    described = {
        "classifier_sha256": reference.classifier_sha256,
        "counts": {"test": reference.test.count, "train": reference.train.count},
        "real": asdict(reference.real),
    }
    text = json_text(described, sort_keys=True)
    write_file(path, tensor_bytes(tensors, {_METADATA: text}))


def read_reference(path: Path) -> Reference:
    """Read a file that `save_reference` wrote. Raises ModelError for any other."""
    try:
        with safe_open(path, framework="pt") as file:
            described = json.loads((file.metadata() or {})[_METADATA])
            parts = [
                Gaussian(
                    file.get_tensor(f"{name}.mean").double(),
                    file.get_tensor(f"{name}.cov").double(),
                    described["counts"][name],
                )
                for name in ("test", "train")
            ]
            neighbours = file.get_tensor("neighbours").float()
        return Reference(
            parts[0], parts[1], neighbours,
            RealFigures(**described["real"]), described["classifier_sha256"],
        )  # fmt: skip
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path}: not a file of reference statistics ({error!r})") from error


def load_reference(model: LoadedModel) -> Reference:
    """The reference statistics that came with a model.

    Raises:
        ModelError: there are none, the file was changed, or they are of another classifier.
    """
    info = model.info
    if REFERENCE_FILE not in info.files:
        raise ModelError(
            f"model {info.name!r} has no reference statistics ({REFERENCE_FILE}); train it with "
            "this version of lutvar, which writes them"
        )
    with model.file(REFERENCE_FILE) as path:
        reference = read_reference(path)
    expected = info.files.get("classifier.safetensors")
    if reference.classifier_sha256 != expected:
        raise ModelError(
            f"{REFERENCE_FILE} of model {info.name!r} was made with the classifier "
            f"{reference.classifier_sha256}, the model has {expected}; features of different "
            "classifiers cannot be compared, make the statistics again"
        )
    return reference


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
