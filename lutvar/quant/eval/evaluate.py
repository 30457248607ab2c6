# SPDX-License-Identifier: Apache-2.0
"""One evaluation: samples and given tokens of a model without and with methods, over seeds."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.models.judge import Judge

from .chunk import chunks_of, edit_task
from .figures import PairedFigures, SampleFigures, paired_figures, sample_figures
from .forced import ForcedFigures, force
from .frechet import need_samples
from .methods import FLOAT
from .reference import Reference, load_reference
from .settings import GENERATE, SampleSettings, image_seed
from .store import ChunkStore
from .subject import On, Subject, SubjectName, load_subjects
from .tasks import Edited, RegionFigures, decoded, given_seed, region_figures
from .threads import single_thread
from .work import Share, Task, sample

#: Opens a progress bar with a label.
Bars = Callable[[str], AbstractContextManager[Callable[[int, int], None]]]

#: What all figures on images have in common; goes with every result.
NOTE = (
    "features of the small classifier that comes with the model; these are not ImageNet Inception "
    "figures and do not compare with published FID, IS, precision or recall"
)


@dataclass(frozen=True)
class Plan:
    """What is to be evaluated, and how.

    Attributes:
        model: name or folder.
        methods: presets and recipes; the unquantized model always comes first and is not named.
        settings: of the sampling.
        samples: images for each method and seed.
        seeds: each gives a run of its own.
        teacher: images whose tokens are given to compare logits and layers.
        folder: where samples are kept.
        jobs, wait, device: see `work.sample`.
        share: part of this process among those of torchrun.
        on: how methods are computed; None is the golden model where the accelerator runs a method,
            and every method fake-quantized.
    """

    model: str
    methods: tuple[str, ...]
    settings: SampleSettings
    samples: int
    seeds: tuple[int, ...]
    teacher: int
    folder: Path
    jobs: int | None = None
    wait: float = 3600.0
    device: str = "cpu"
    share: Share = field(default_factory=Share)
    on: On | None = None

    def __post_init__(self) -> None:
        for seed in self.seeds:  # ValueError now, and not in a process that samples
            image_seed(seed, self.samples - 1)


@dataclass(frozen=True)
class Run:
    """Figures of one method and seed; `paired` and `forced` are None for the unquantized model.

    Attributes:
        on: how the method was computed: "golden", "fake", or "float" for the unquantized model.
        region: of an editing task.
    """

    method: str
    on: str
    seed: int
    samples: SampleFigures
    paired: PairedFigures | None
    forced: ForcedFigures | None
    region: RegionFigures | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def check(plan: Plan, model: LoadedModel, judge: Judge) -> None:
    """Raise ValueError for a plan that cannot give figures, before anything is computed."""
    need_samples(plan.samples, judge.width)
    if not plan.seeds or len(set(plan.seeds)) != len(plan.seeds):
        raise ValueError(f"seeds {list(plan.seeds)}: at least one, each once")
    for seed in plan.seeds:
        image_seed(seed, plan.samples + plan.settings.chunk)
    if not 1 <= plan.teacher <= plan.samples:
        raise ValueError(
            f"teacher = {plan.teacher}: from 1 to the number of samples, {plan.samples}; their "
            "tokens are taken from samples"
        )
    config = model.vqvae.config
    shape = (config.in_channels, config.image_size, config.image_size)
    if judge.image_shape != shape:
        raise ValueError(
            f"model {model.info.name!r} makes images of shape {shape}, its classifier takes "
            f"{judge.image_shape}; train both on the same images"
        )


def evaluate(
    plan: Plan, bars: Bars, keep: Callable[[Run, Samples], None] | None = None
) -> list[Run] | None:
    """Evaluate the unquantized model and each method, for each seed.

    Args:
        plan: what.
        bars: opens a progress bar.
        keep: called with each run and its samples.

    Returns:
        The runs, methods in order, each with all seeds; None in a process of torchrun that is not
        the first: it has only done its part of the sampling.

    Raises:
        ModelError, ConfigError, ValueError: model, method, or settings that cannot be used.
        StoreError: the folder holds other samples.
        WorkError: processes that failed or did not deliver.
    """
    model = load_model(plan.model)
    judge, reference = model.classifier(), load_reference(model)
    check(plan, model, judge)
    runs: list[Run] = []
    exact: dict[int, Samples] = {}
    given: dict[int, Edited] = {}
    for number, subject in enumerate(subjects_of(plan, model)):
        for seed in plan.seeds:
            if number == 0 and plan.settings.task != GENERATE:
                given_store = _given(plan, subject, seed, bars)
                if plan.share.index == 0:
                    given[seed] = _given_images(plan, subject, judge, given_store)
            store = sample_seed(plan, subject, seed, bars)
            if plan.share.index == 0:
                samples = _read(plan, store)
                exact.setdefault(seed, samples)
                measured = _Measured(exact[seed], samples, given.get(seed))
                figures = _measure(plan, subject, judge, reference, measured, seed, bars)
                runs.append(figures)
                if keep is not None:
                    keep(figures, samples)
    return runs if plan.share.index == 0 else None


def subjects_of(plan: Plan, model: LoadedModel) -> list[Subject]:
    """The unquantized model and each method of a plan in each way; all of them at once, so that a
    wrong name does not wait for samples of the others."""
    subjects = load_subjects(plan.model, FLOAT, "fake", plan.device, model)
    for method in plan.methods:
        subjects += load_subjects(plan.model, method, plan.on, plan.device, model)
    return subjects


class Samples(NamedTuple):
    """Features [N, D] and tokens [N, L] of the images of one run; of an editing task the features
    of the region as well."""

    features_ND: Tensor
    tokens_NL: Tensor
    region_ND: Tensor | None = None

    @property
    def edited(self) -> Edited:
        """What an editing task measures."""
        assert self.region_ND is not None
        return Edited(self.region_ND, self.tokens_NL)


class _Measured(NamedTuple):
    """The unquantized model's samples, those that are measured, and given images."""

    exact: Samples
    samples: Samples
    given: Edited | None


def _given(plan: Plan, subject: Subject, seed: int, bars: Bars) -> ChunkStore:
    """The given images of a run of an editing task, drawn by the unquantized model."""
    settings = replace(plan.settings, task=GENERATE)
    task = Task(
        SubjectName(plan.model), settings, given_seed(seed), plan.samples,
        _given_folder(plan, seed), plan.device, judged=False,
    )  # fmt: skip
    with bars(f"seed {seed}: given images") as update:
        return sample(task, subject, plan.jobs, plan.share, plan.wait, update)


def _given_folder(plan: Plan, seed: int) -> Path:
    return plan.folder / "given" / f"seed{seed}"


def _given_images(plan: Plan, subject: Subject, judge: Judge, store: ChunkStore) -> Edited:
    """Region of the given images, and their tokens once they are encoded."""
    task, vqvae = edit_task(subject, plan.settings), subject.model.vqvae
    assert task is not None
    made_NL = store.read(chunks_of(plan.samples, plan.settings), ("tokens",))["tokens"]
    regions, tokens = [], []
    with torch.no_grad(), single_thread():
        for part_NL in made_NL.split(plan.settings.chunk):  # as they are encoded for editing
            regions.append(task.region_features(judge, decoded(vqvae, part_NL)))
            edits = task.edits(vqvae, part_NL)
            tokens.append(torch.stack([torch.from_numpy(np.concatenate(e.tokens)) for e in edits]))
    return Edited(torch.cat(regions)[: plan.samples], torch.cat(tokens)[: plan.samples].int())


def sample_seed(
    plan: Plan, subject: Subject, seed: int, bars: Bars, judged: bool = True
) -> ChunkStore:
    """Samples of one method and seed, in the plan's folder; see `work.sample`."""
    plain = re.sub(r"[^\w.-]+", "-", subject.name)
    folder = plan.folder / (f"{plain}@golden" if subject.golden else plain) / f"seed{seed}"
    name = SubjectName(plan.model, subject.name, subject.on)
    given = None if plan.settings.task == GENERATE else _given_folder(plan, seed)
    task = Task(name, plan.settings, seed, plan.samples, folder, plan.device, judged, given)
    with bars(f"{subject.title}, seed {seed}: images") as update:
        return sample(task, subject, plan.jobs, plan.share, plan.wait, update)


def _read(plan: Plan, store: ChunkStore) -> Samples:
    names = ["features", "tokens", *(["region"] if plan.settings.task != GENERATE else [])]
    arrays = store.read(chunks_of(plan.samples, plan.settings), names)
    return Samples(*(arrays[name][: plan.samples] for name in names))


def _measure(
    plan: Plan,
    subject: Subject,
    judge: Judge,
    reference: Reference,
    measured: _Measured,
    seed: int,
    bars: Bars,
) -> Run:
    exact, samples, given = measured
    classes, task = subject.model.var.config.num_classes, edit_task(subject, plan.settings)
    numbers = range(plan.samples)
    shown = [i % classes if task is None else task.target(i) for i in numbers]
    alone = sample_figures(samples.features_ND, torch.tensor(shown), judge, reference)
    region, unquantized = None, subject.name == FLOAT
    if task is not None:
        assert given is not None
        region = region_figures(
            task, subject.model.vqvae, given, exact.edited, samples.edited, unquantized
        )
    if unquantized:
        return Run(subject.name, FLOAT, seed, alone, None, None, region)
    paired = paired_figures(subject.model.vqvae, exact[:2], samples[:2])
    labels_N, counted_L = torch.tensor(shown), None
    if task is not None:
        labels_N, counted_L = torch.tensor(task.labels(numbers)) % (classes + 1), task.regenerated_L
    labels_N = labels_N[: plan.teacher].to(plan.device)
    tokens_NL = exact.tokens_NL[: plan.teacher].to(plan.device)
    # As samples are made: one thread, so that rounding is the same on every machine.
    with bars(f"{subject.title}, seed {seed}: given tokens") as update, single_thread():
        forced = force(subject, labels_N, tokens_NL, update, counted_L)
    return Run(subject.name, subject.on, seed, alone, paired, forced, region)
