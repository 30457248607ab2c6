# SPDX-License-Identifier: Apache-2.0
"""The training plans of the models that come with lutvar."""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.quant.var import VarConfig, VqvaeConfig
from lutvar.quant.var.checkpoint import COMPACT

from .cifar import CLASSES
from .var import VarPlan
from .vqvae import VqvaePlan


@dataclass(frozen=True)
class TrainPlan:
    """Everything a run depends on besides the seed.

    Attributes:
        name: of the model.
        classifier_steps, vqvae, var: of the three trainings.
        cfg, top_k, top_p: sampling settings, for the report and as the model's defaults.
        classes: their names.
        samples: images of the report.
        compact: store the weights in about six bits each (`quant.var.compact`).
        about, data_text, limits, remark: paragraphs of the model card.
    """

    name: str
    classifier_steps: int
    vqvae: VqvaePlan
    var: VarPlan
    cfg: float
    top_k: int
    top_p: float
    classes: tuple[str, ...] = tuple("0123456789")
    samples: int = 500
    compact: bool = False
    about: str = ""
    data_text: str = ""
    limits: str = ""
    remark: str = ""

    def weights(self, part: str) -> str:
        """File name of the weights of a part, "var" or "vqvae"."""
        return part + (COMPACT if self.compact else ".safetensors")


_DIGIT_SCALES = (1, 2, 3, 4)
DIGITS = TrainPlan(
    name="digits",
    classifier_steps=500,
    vqvae=VqvaePlan(
        VqvaeConfig(
            vocab=96,
            z_channels=8,
            ch=32,
            patch_nums=_DIGIT_SCALES,
            ch_mult=(1, 1),
            num_res_blocks=1,
            in_channels=1,
        ),
        # Moved and rotated images made the held-out reconstruction worse (0.037 against 0.030
        # squared error after 600 steps), so the tokenizer sees the images as they are.
        steps=1500,
    ),
    var=VarPlan(
        VarConfig(
            depth=4,
            width=128,
            heads=2,
            patch_nums=_DIGIT_SCALES,
            num_classes=10,
            vocab=96,
            z_channels=8,
            drop_rate=0.1,
        ),
        steps=1500,
        batch=64,
        average=0.995,
        # Without these the transformer learns the 1,528 images by heart: held-out cross entropy
        # 3.26 against 2.13 after 1200 steps.
        degrees=5.0,
        stretch=0.04,
        shift=0.25,
    ),
    cfg=1.5,
    top_k=0,
    top_p=0.0,
    about="""\
A class-conditional next-scale (VAR) image model of handwritten digits: 8x8 pixels, grey,
one of 10 digits per image. It is small enough to train on a laptop and to run through a
simulated accelerator, and it has the architecture of the large VAR models.""",
    data_text="""\
"Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, 1998; UCI Machine Learning
Repository, CC BY 4.0), the 1,797 images distributed with scikit-learn. For classifier and
transformer the training images were rotated, stretched and shifted a little at random.""",
    limits="Digits of this one data set and nothing else.",
)

_CIFAR_SCALES = (1, 2, 3, 4, 6, 8)
CIFAR10 = TrainPlan(
    name="cifar10",
    classifier_steps=2500,
    vqvae=VqvaePlan(
        VqvaeConfig(
            vocab=512,
            z_channels=16,
            ch=32,
            patch_nums=_CIFAR_SCALES,
            ch_mult=(1, 1, 2),
            num_res_blocks=1,
        ),
        steps=500,
        batch=64,
        rate=2e-3,
        flip=True,
    ),
    var=VarPlan(
        VarConfig(
            depth=8,
            width=256,
            heads=4,
            patch_nums=_CIFAR_SCALES,
            num_classes=10,
            vocab=512,
            z_channels=16,
        ),
        # One core trains this in less than two hours; a longer schedule makes a better model.
        steps=1600,
        batch=32,
        rate=3e-3,
        average=0.99,
        flip=True,
        muon=True,
        grow_at=500,
        short_steps=True,
    ),
    # Of cfg 2 to 9 the strongest gave most images of the requested class and the least distance.
    cfg=9.0,
    top_k=0,
    top_p=0.97,
    classes=CLASSES,
    compact=True,
    about="""\
A class-conditional next-scale (VAR) image model of CIFAR-10: 32x32 pixels, RGB, 10 classes, for
research on quantization. It has the architecture of the large VAR models (AdaLN of each block,
unit-length queries and keys) at a size that one processor core trains in about three hours. Its
images show colours, shapes and layout of their class, not detail: it was trained for one pass over
the images.""",
    data_text="""\
CIFAR-10 (A. Krizhevsky, 2009). The images were read from JPEG files and mirrored at random.
The data set does not come with lutvar; LUTVAR_CIFAR10 names the file for training.""",
    limits="Small natural images of ten classes and nothing else; far from the state of the art.",
    remark="""\
The first 900 steps of the shipped transformer had learning rates of schedules of 900 to 1400
steps, so this command gives a model like it, not the same weights.
""",
)

#: Plans by model name.
PLANS = {plan.name: plan for plan in (DIGITS, CIFAR10)}
