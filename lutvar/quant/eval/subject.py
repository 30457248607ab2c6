# SPDX-License-Identifier: Apache-2.0
"""What is evaluated: a model, and a method that is put into it for the time being.

A method is computed in one of two ways. *Fake-quantized*: its layers stand in the float model,
values are rounded and everything else is float, as publications measure. *Golden*: its codes run on
the golden model, to the bit what the accelerator computes, head and attention records included.

A subject is named by text alone (`SubjectName`), so that every process of a run can make its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from lutvar.contract.editing import Edit
from lutvar.files import json_text
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq.transformer import (
    QuantizedTransformer,
)
from lutvar.quant.var import GenerationResult, Var, generate
from lutvar.quant.var.forcing import forced_logits
from lutvar.quant.var.passes import generate_passes, teacher_forced

from .methods import FLOAT, Install, method_of, unchanged
from .settings import SampleSettings
from .threads import single_thread

#: How a method is computed: in the float model, or at code level as the accelerator does.
On = Literal["fake", "golden"]


@dataclass(frozen=True)
class SubjectName:
    """Model and method by name: a model's name or folder, and `FLOAT`, a preset or a recipe."""

    model: str
    method: str = FLOAT
    on: On = "fake"


@dataclass(frozen=True)
class Subject:
    """A loaded model with a method to put into it.

    Attributes:
        golden: the method's codes where the golden model computes it; `install` then does nothing.
    """

    model: LoadedModel
    name: str
    fingerprint: str
    install: Install
    golden: QuantizedTransformer | None = None

    @property
    def on(self) -> On:
        """How the method is computed."""
        return "fake" if self.golden is None else "golden"

    @property
    def title(self) -> str:
        """For progress bars and tables."""
        return f"{self.name}, golden model" if self.golden else self.name

    @contextmanager
    def installed(self) -> Iterator[Var]:
        """The transformer with the method in it."""
        with self.model_in_use() as var, self.install(var):
            yield var

    @contextmanager
    def model_in_use(self) -> Iterator[Var]:
        """The transformer without the method; its hook is put back afterwards."""
        var = self.model.var
        hook = var.step_hook
        try:
            yield var
        finally:
            var.step_hook = hook

    def draw(
        self,
        labels: Sequence[int],
        seeds: Sequence[int],
        settings: SampleSettings,
        edits: Sequence[Edit] | None = None,
    ) -> GenerationResult:
        """One image for each label and seed, all in one batch; `edits` as for `generate`."""
        drawn = (labels, seeds, settings.cfg, settings.top_k, settings.top_p)
        vqvae = self.model.vqvae
        if self.golden is None:
            with self.installed() as var:
                return generate(var, vqvae, *drawn, edits=edits)
        golden = GoldenTransformer(self.golden)
        return generate_passes(self.model.var, vqvae, golden, *drawn, edits=edits)

    @torch.no_grad()
    def logits(self, labels_N: Tensor, tokens_NL: Tensor) -> list[Tensor]:
        """Conditional logits [N, p*p, V] of each scale when all coarser tokens are given."""
        vqvae = self.model.vqvae
        if self.golden is None:
            with self.installed() as var:
                return forced_logits(var, vqvae, labels_N, tokens_NL)
        return golden_logits(self, GoldenTransformer(self.golden), labels_N, tokens_NL)


def golden_logits(
    subject: Subject, transformer: GoldenTransformer, labels_N: Tensor, tokens_NL: Tensor
) -> list[Tensor]:
    """`Subject.logits` of a golden model that is at hand, for example one with a trace."""
    var = subject.model.var
    counts = [p * p for p in var.config.patch_nums]
    tokens = tokens_NL.long().split(counts, 1)
    logits_NLV = teacher_forced(var, subject.model.vqvae, transformer, labels_N.tolist(), tokens)
    return list(logits_NLV.split(counts, 1))


def load_subject(
    name: SubjectName, device: str = "cpu", model: LoadedModel | None = None
) -> Subject:
    """Load the model and make the method ready.

    Args:
        name: what.
        device: where the model is to be.
        model: the same model where it is loaded already.

    Raises:
        ModelError, ConfigError, RecipeError: unknown model, preset or recipe.
        ValueError: the golden model is asked for a method that the accelerator does not run, or on
            another device than the CPU.
    """
    return load_subjects(name.model, name.method, name.on, device, model)[0]


def load_subjects(
    model_name: str,
    method_name: str,
    on: On | None = None,
    device: str = "cpu",
    model: LoadedModel | None = None,
) -> list[Subject]:
    """A method in each way that is asked for, quantized once.

    Args:
        model_name, method_name, device, model: as for `load_subject`.
        on: one way; None is the golden model where the accelerator runs the method and `device` is
            the CPU, then the fake-quantized model.
    """
    if on == "golden" and torch.device(device).type != "cpu":
        raise ValueError(f"device {device!r}: the golden model runs on the CPU; take --device cpu")
    model = load_model(model_name) if model is None else model
    model.var.to(device)
    model.vqvae.to(device)
    method = method_of(method_name, model)
    subjects = []
    if on == "golden" and method.export is None:
        raise ValueError(
            f"{method_name}: the golden model does not run it: {method.missing}; evaluate it "
            "fake-quantized"
        )
    if on == "golden" or (on is None and method.export and torch.device(device).type == "cpu"):
        assert method.export is not None
        with single_thread():
            codes = method.export()
        fingerprint = f"{method.fingerprint}, golden model"
        subjects.append(Subject(model, method_name, fingerprint, unchanged, codes))
    if on != "golden":
        subjects.append(Subject(model, method_name, method.fingerprint, method.install))
    return [replace(s, fingerprint=f"{s.fingerprint}, logits {_probe(s)}") for s in subjects]


def model_fingerprint(model: LoadedModel) -> str:
    """Hash of the files that samples and features come from."""
    files = {k: v for k, v in model.info.files.items() if not k.startswith("reference")}
    return hashlib.sha256(json_text(files, sort_keys=True).encode()).hexdigest()


def _probe(subject: Subject) -> str:
    """Hash of the logits on made-up tokens: a method whose code was changed is another one."""
    model = subject.model
    device = model.var.lvl_1L.device
    tokens_1L = torch.arange(model.info.var.tokens, device=device)[None] % model.info.var.vocab
    labels = torch.zeros(1, dtype=torch.long, device=device)
    with single_thread():
        logits = torch.cat(subject.logits(labels, tokens_1L), 1)
    return hashlib.sha256(logits.cpu().numpy().tobytes()).hexdigest()[:16]
