# SPDX-License-Identifier: Apache-2.0
"""What is evaluated: a model, and a method that is put into it for the time being.

A subject is named by text alone (`SubjectName`), so that every process of a run can make its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lutvar.contract.quant_preset import load_quant
from lutvar.files import json_text
from lutvar.quant.golden.backend import GoldenBackend
from lutvar.quant.methods.calibration.prepare import prepare_calibration
from lutvar.quant.methods.recipes.build import quantize_var
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.methods.recipes.recipe import load_recipe
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq.model import quantize_model
from lutvar.quant.var import Var
from lutvar.quant.var.forcing import forced_logits
from lutvar.quant.var.sites import LinearBackend

from .threads import single_thread

#: Name of the unquantized model among the subjects.
FLOAT = "float"
#: A name with this prefix is a quantization preset: block linears as the accelerator computes them.
PRESET = "preset:"

#: Puts a method into a model; leaving it takes the method out again.
Install = Callable[[Var], AbstractContextManager[object]]


@dataclass(frozen=True)
class SubjectName:
    """Model and method by name: a model's name or folder, and `FLOAT`, a preset or a recipe."""

    model: str
    method: str = FLOAT


@dataclass(frozen=True)
class Method:
    """A method by itself.

    Attributes:
        fingerprint: everything the method is made of (for example a hash of its recipe); samples
            of another fingerprint are never mixed with its own.
        install: puts it into a model.
    """

    fingerprint: str
    install: Install


@dataclass(frozen=True)
class Subject:
    """A loaded model with a method to put into it."""

    model: LoadedModel
    name: str
    fingerprint: str
    install: Install

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
    """
    model = load_model(name.model) if model is None else model
    model.var.to(device)
    model.vqvae.to(device)
    method = _method(name.method, model)
    subject = Subject(model, name.method, method.fingerprint, method.install)
    return replace(subject, fingerprint=f"{method.fingerprint}, logits {_probe(subject)}")


def model_fingerprint(model: LoadedModel) -> str:
    """Hash of the files that samples and features come from."""
    files = {k: v for k, v in model.info.files.items() if not k.startswith("reference")}
    return hashlib.sha256(json_text(files, sort_keys=True).encode()).hexdigest()


@torch.no_grad()
def _probe(subject: Subject) -> str:
    """Hash of the logits on made-up tokens: a method whose code was changed is another one."""
    model = subject.model
    device = model.var.lvl_1L.device
    tokens_1L = torch.arange(model.info.var.tokens, device=device)[None] % model.info.var.vocab
    labels = torch.zeros(1, dtype=torch.long, device=device)
    with single_thread(), subject.installed() as var:
        logits = torch.cat(forced_logits(var, model.vqvae, labels, tokens_1L), 1)
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
    return Method(f"file {fingerprint}", quantized.installed)


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
                model.var, model.vqvae, recipe.calibration, info.cfg, info.top_k, info.top_p
            )
        quantized = quantize_var(model.var, recipe, calibration)
    fingerprint = hashlib.sha256(recipe.model_dump_json().encode()).hexdigest()
    return Method(f"recipe {fingerprint}", quantized.installed)


def preset_method(name: str, model: LoadedModel) -> Method:
    """Block linears as the accelerator computes them under a preset. Raises ConfigError."""
    config = load_quant(name)
    fingerprint = hashlib.sha256(config.model_dump_json().encode()).hexdigest()
    backend = GoldenBackend(quantize_model(model.var, config, progress=False))
    return Method(f"preset {fingerprint}", lambda var: with_backend(var, backend))


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
