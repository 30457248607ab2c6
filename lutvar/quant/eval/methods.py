# SPDX-License-Identifier: Apache-2.0
"""Methods by name: what puts one into a model, and its codes where the accelerator runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lutvar.contract.quant_preset import load_quant
from lutvar.quant.golden.backend import GoldenBackend
from lutvar.quant.methods.calibration.prepare import prepare_calibration
from lutvar.quant.methods.hardware.export import export
from lutvar.quant.methods.hardware.report import hardware
from lutvar.quant.methods.recipes.build import quantize_var
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.methods.recipes.recipe import load_recipe
from lutvar.quant.models import LoadedModel
from lutvar.quant.ptq.model import quantize_model
from lutvar.quant.ptq.transformer import (
    QuantizedTransformer,
    check_transformer,
    quantize_transformer,
)
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var import Var
from lutvar.quant.var.sites import LinearBackend

from .threads import single_thread

#: Name of the unquantized model among the subjects.
FLOAT = "float"
#: A name with this prefix is a quantization preset: block linears as the accelerator computes them.
PRESET = "preset:"

#: Puts a method into a model; leaving it takes the method out again.
Install = Callable[[Var], AbstractContextManager[object]]


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


def method_of(name: str, model: LoadedModel) -> Method:
    """A method by name. Raises ConfigError, RecipeError or QuantizedFileError."""
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
