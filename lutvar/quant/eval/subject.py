# SPDX-License-Identifier: Apache-2.0
"""What is evaluated: a model, and a method that is put into it for the time being.

A method is computed in one of two ways. *Fake-quantized*: its layers stand in the float model,
values are rounded and everything else is float, as publications measure. *Golden*: its codes run on
the golden model, to the bit what the accelerator computes, head and attention records included.

A subject is named by text alone (`SubjectName`), so that every process of a run can make its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from lutvar.contract.quant_preset import load_quant
from lutvar.files import json_text
from lutvar.quant.golden.backend import GoldenBackend
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.methods.calibration.prepare import prepare_calibration
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.recipes.build import quantize_var
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.methods.recipes.recipe import load_recipe
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq.linear import QuantizationError
from lutvar.quant.ptq.model import quantize_model
from lutvar.quant.ptq.transformer import (
    QuantizedTransformer,
    check_transformer,
    quantize_transformer,
)
from lutvar.quant.var import GenerationResult, Var, generate
from lutvar.quant.var.forcing import forced_logits
from lutvar.quant.var.passes import generate_passes, teacher_forced
from lutvar.quant.var.sites import LinearBackend

from .settings import SampleSettings
from .threads import single_thread

#: Name of the unquantized model among the subjects.
FLOAT = "float"
#: A name with this prefix is a quantization preset: block linears as the accelerator computes them.
PRESET = "preset:"

#: How a method is computed: in the float model, or at code level as the accelerator does.
On = Literal["fake", "golden"]

#: Puts a method into a model; leaving it takes the method out again.
Install = Callable[[Var], AbstractContextManager[object]]


@dataclass(frozen=True)
class SubjectName:
    """Model and method by name: a model's name or folder, and `FLOAT`, a preset or a recipe."""

    model: str
    method: str = FLOAT
    on: On = "fake"


@dataclass(frozen=True)
class Method:
    """A method by itself.

    Attributes:
        fingerprint: everything the method is made of (for example a hash of its recipe); samples
            of another fingerprint are never mixed with its own.
        install: puts it into a model.
        export: makes the codes that the accelerator runs; None where it does not run the method.
        missing: why it does not.
    """

    fingerprint: str
    install: Install
    export: Callable[[], QuantizedTransformer] | None = None
    missing: str = "the unquantized model has no codes"


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
        self, labels: Sequence[int], seeds: Sequence[int], settings: SampleSettings
    ) -> GenerationResult:
        """One image for each label and seed, all in one batch."""
        drawn = (labels, seeds, settings.cfg, settings.top_k, settings.top_p)
        if self.golden is None:
            with self.installed() as var:
                return generate(var, self.model.vqvae, *drawn)
        return generate_passes(
            self.model.var, self.model.vqvae, GoldenTransformer(self.golden), *drawn
        )

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
    method = _method(method_name, model)
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


def _method(name: str, model: LoadedModel) -> Method:
    if name == FLOAT:
        return Method(FLOAT, unchanged)
    if name.startswith(PRESET):
        return preset_method(name.removeprefix(PRESET), model)
    if name.endswith(".safetensors"):
        return file_method(name, model)
    return recipe_method(name, model)


def file_method(name: str, model: LoadedModel) -> Method:
    """What `lutvar quantize` wrote. Raises QuantizedFileError."""
    quantized = QuantizedVar.load(name, model.var)
    fingerprint = hashlib.sha256(Path(name).read_bytes()).hexdigest()
    return _quantized_method(f"file {fingerprint}", quantized, model)


def recipe_method(name: str, model: LoadedModel) -> Method:
    """The place where recipes come in: a shipped one by name, or a YAML file.

    Made on one thread, so that all processes make the same.

    Raises:
        RecipeError: unknown recipe, or one that does not fit the model.
    """
    recipe, info = load_recipe(name), model.info
    with single_thread():
        calibration = None
        if recipe.needs_data:
            calibration = prepare_calibration(
                model.var, model.vqvae, recipe.calibration,
                info.cfg, info.top_k, info.top_p, model.classifier,
            )  # fmt: skip
        quantized = quantize_var(model.var, recipe, calibration)
    fingerprint = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
    return _quantized_method(f"recipe {fingerprint}", quantized, model)


def _quantized_method(fingerprint: str, quantized: QuantizedVar, model: LoadedModel) -> Method:
    """Layers that a recipe made, and their codes where a shipped accelerator runs them."""
    report = hardware(quantized, model.var)
    if report.runs:
        return Method(fingerprint, quantized.installed, lambda: export(quantized, model.var))
    missing = [*report.missing]
    if report.unshipped is not None:
        missing.append(f"no shipped configuration: {report.unshipped}")
    return Method(fingerprint, quantized.installed, missing="; ".join(missing))


def preset_method(name: str, model: LoadedModel) -> Method:
    """Block linears as the accelerator computes them under a preset; on the golden model all of it,
    with E2M3 records. Raises ConfigError."""
    config = load_quant(name)
    fingerprint = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    backend = GoldenBackend(quantize_model(model.var, config, progress=False))

    def install(var: Var) -> AbstractContextManager[None]:
        return with_backend(var, backend)

    try:
        check_transformer(model.var.config)
    except QuantizationError as error:
        return Method(f"preset {fingerprint}", install, missing=str(error))
    return Method(
        f"preset {fingerprint}",
        install,
        lambda: quantize_transformer(model.var, config, progress=False),
    )


@contextmanager
def unchanged(var: Var) -> Iterator[None]:
    """The model as it is."""
    yield


@contextmanager
def with_backend(var: Var, backend: LinearBackend) -> Iterator[None]:
    """Another backend for the block linears."""
    before = var.linear_backend
    var.linear_backend = backend
    try:
        yield
    finally:
        var.linear_backend = before
