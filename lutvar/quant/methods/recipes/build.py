# SPDX-License-Identifier: Apache-2.0
"""From a recipe and a float model to quantized layers, block by block."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from lutvar.quant.formats.quantize import check_finite
from lutvar.quant.methods.attention.registry import AttentionMethod, MeasuredModel, make_attention
from lutvar.quant.methods.calibration.importance import output_importance
from lutvar.quant.methods.calibration.network import WholeModel
from lutvar.quant.methods.calibration.samples import CalibrationSet, data_by_block
from lutvar.quant.methods.errors import CalibrationError, RecipeError
from lutvar.quant.methods.generator import Model, generator_of, var_only
from lutvar.quant.methods.layers.layer import Block, BlockData, Layer, Step
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.steps import make_step
from lutvar.quant.methods.steps.base import ModelStep
from lutvar.quant.var import Var
from lutvar.quant.var.blocks import VarBlock
from lutvar.quant.var.sites import LinearSite, SiteName

from .quantized_var import QuantizedVar
from .recipe import Recipe
from .specs import LayerSpec
from .tune import tune


def quantize_var(
    var: Model,
    recipe: Recipe,
    calibration: CalibrationSet | None = None,
) -> QuantizedVar:
    """Run a recipe over a model; `resumable.quantize_to_file` is for large ones.

    Args:
        var: the float model; not changed.
        recipe: the recipe.
        calibration: samples (`calibration.calibration_set`), for recipes that need data.

    Raises:
        CalibrationError: data needed and not given, or not finite.
        RecipeError: a linear that this model does not have, or one that the recipe cannot quantize.
    """
    result = QuantizedVar(recipe)
    for _, layers in quantize_blocks(var, recipe, calibration):
        result.layers |= {layer.site: layer for layer in (layers or {}).values()}
    result = tuned_model(result, var, calibration)
    result.attention = measured_attention(result, var, calibration)
    return result


def quantize_blocks(
    var: Model,
    recipe: Recipe,
    calibration: CalibrationSet | None = None,
    skip: Container[int] = (),
) -> Iterator[tuple[int, dict[SiteName, Layer] | None]]:
    """The finished layers of one block after the other; None for those in `skip`.

    Arguments and errors are those of `quantize_var`. Nothing is kept, so that a model that is
    memory-mapped needs little more memory than one block.
    """
    depth = var.config.depth
    check_model(var, recipe)
    steps = [make_step(settings) for settings in recipe.steps]
    if recipe.needs_data and calibration is None:
        raise CalibrationError(f"recipe {recipe.name} needs calibration samples; give some")
    if calibration is not None and recipe.calibration.steps is not None:
        calibration = calibration.first(recipe.calibration.steps)
    choices: dict[LinearSite, str] = {}
    if recipe.mixed is not None and not all(index in skip for index in range(depth + 1)):
        from .mixed import plan_mixed  # SciPy's solver; only such recipes need it

        def build(
            index: int, block_data: BlockData | None, specs: Mapping[SiteName, LayerSpec]
        ) -> dict[SiteName, Layer]:
            return _block(var, recipe, _layers(var, recipe, specs, index), index, block_data, steps)

        assert isinstance(var, Var)
        choices = plan_mixed(var, recipe, calibration, build).choices
    whole: dict[int, dict[SiteName, Layer]] = {}
    if any(isinstance(step, ModelStep) for step in steps):
        if recipe.mixed is not None:
            raise RecipeError("mixed: steps that work on the whole model need `layers` instead")
        if all(index in skip for index in range(depth + 1)):
            steps = []
        else:
            assert calibration is not None
            whole, steps = _whole_model(var, recipe, calibration, steps)
    data: Iterator[BlockData | None] = iter([None] * (depth + 1))
    if calibration is not None and any(step.needs_data for step in steps):
        names = {n for step in steps for n in getattr(step, "needs_importance", ())}
        importance = output_importance(var, calibration, names, recipe.seed) if names else {}
        data = data_by_block(var, calibration, recipe.calibration.mask)
        data = _with_importance(data, importance)
    for index, block_data in enumerate(data):
        if index in skip:
            yield index, None
            continue
        specs = recipe.layers | {
            site.name: recipe.mixed.choices[choice][site.name]
            for site, choice in choices.items()
            if recipe.mixed is not None and site.block == index
        }
        layers = whole.pop(index) if whole else _layers(var, recipe, specs, index)
        layers = _block(var, recipe, layers, index, block_data, steps)
        for site, choice in choices.items():
            if site.block == index:
                layers[site.name].notes.append(f"mixed: {choice}")
        yield index, layers
        del layers  # or it would stay until the next block is done


def _whole_model(
    var: Model, recipe: Recipe, calibration: CalibrationSet, steps: list[Step]
) -> tuple[dict[int, dict[SiteName, Layer]], list[Step]]:
    """All layers after the last step that works on the whole model, and the steps that are left."""
    blocks = {i: _layers(var, recipe, recipe.layers, i) for i in range(var.config.depth + 1)}
    model = WholeModel(
        var, blocks, calibration, recipe.calibration.mask, recipe.attention, recipe.seed
    )
    last = max(i for i, step in enumerate(steps) if isinstance(step, ModelStep))
    waiting: list[Step] = []
    for number, step in enumerate(steps[: last + 1]):
        if not isinstance(step, ModelStep):
            waiting.append(step)
            continue
        for block in model.iter_blocks() if waiting else ():
            for place, one in enumerate(waiting):
                block.following = (*waiting[place + 1 :], *steps[number:])
                one.apply(block)
        step.apply_model(model)
        waiting = [step] if step.then_blocks else []
    return blocks, [*waiting, *steps[last + 1 :]]


def _with_importance(
    data: Iterator[BlockData], importance: Mapping[LinearSite, Tensor]
) -> Iterator[BlockData]:
    for index, block_data in enumerate(data):
        of_block = {site.name: matrix for site, matrix in importance.items() if site.block == index}
        yield replace(block_data, importance=of_block)


def tuned_model(
    model: QuantizedVar,
    var: Model,
    calibration: CalibrationSet | None,
    progress: Callable[[int, int], None] | None = None,
    state: Path | None = None,
) -> QuantizedVar:
    """The model after what its recipe's `tune` says; progress counts on from the blocks."""
    spec, count = model.recipe.tune, var.config.depth + 1
    if spec is None:
        return model
    if calibration is None:
        raise CalibrationError(f"recipe {model.recipe.name} needs calibration samples; give some")
    assert isinstance(var, Var)
    report = None if progress is None else lambda d, of: progress(count + d, count + of)
    return tune(model, var, calibration, spec, report, state)


def measured_attention(
    model: QuantizedVar, var: Model, calibration: CalibrationSet | None
) -> AttentionMethod | None:
    """The recipe's attention method, once it has looked at the model with its quantized linears."""
    if model.recipe.attention is None:
        return None
    method = make_attention(model.recipe.attention, var, calibration)
    measure = getattr(method, "measure", None)
    if measure is not None and calibration is not None:
        shapes: dict[LinearSite, tuple[int, int]] = {}
        for index in range(var.config.depth + 1):
            for site, weight_OI, _ in iter_linears(var, index):
                shapes[site] = (weight_OI.shape[0], weight_OI.shape[1])
        with QuantizedVar(model.recipe, model.layers, method).installed(var) as installed:
            masked = model.recipe.calibration.mask
            measure(MeasuredModel(installed, shapes, model.layers, calibration, masked))
    return method


def _layers(
    var: Model, recipe: Recipe, specs: Mapping[SiteName, LayerSpec], index: int
) -> dict[SiteName, Layer]:
    """The linears of a block that have quantizers, as the float model has them."""
    layers: dict[SiteName, Layer] = {}
    for site, weight_OI, bias_O in iter_linears(var, index):
        spec = specs.get(site.name)
        if spec is None:
            continue
        try:
            check_finite(weight_OI)
        except ValueError as error:
            raise RecipeError(f"{site}: weight: {error}") from error
        weights, inputs = recipe.terms_of(site)
        layers[site.name] = Layer(
            site,
            weight_OI.detach().float(),
            None if bias_O is None else bias_O.detach().float(),
            activation=None if spec.input is None else FakeQuantizer(spec.input, inputs),
            weight=None if spec.weight is None else FakeQuantizer(spec.weight, weights),
        )
    return layers


def _block(
    var: Model,
    recipe: Recipe,
    layers: dict[SiteName, Layer],
    index: int,
    data: BlockData | None,
    steps: list[Step],
) -> dict[SiteName, Layer]:
    """The finished layers of a block."""
    module = var.blocks[index] if isinstance(var, Var) and index < var.config.depth else None
    assert module is None or isinstance(module, VarBlock)
    block = Block(index, layers, module, data, recipe.seed, heads=generator_of(var).heads(index))
    for number, step in enumerate(steps):
        block.following = tuple(steps[number + 1 :])
        step.apply(block)
    for layer in layers.values():
        _check_terms(layer, recipe)
        layer.finish()
        if not bool(torch.isfinite(layer.rounded_OI).all()):  # type: ignore[arg-type]
            raise RecipeError(f"{layer.site}: the recipe made a weight that is not finite")
    return layers


def _check_terms(layer: Layer, recipe: Recipe) -> None:
    """Raise RecipeError if a step put a quantizer with one term in place of one with two."""
    wanted = recipe.terms_of(layer.site)
    for what, want, has in zip(("weight", "input"), wanted, layer.terms, strict=True):
        if has < want:
            kind = type(getattr(layer, "weight" if what == "weight" else "activation")).__name__
            raise RecipeError(
                f"{layer.site}: terms ask for {what}s in two terms, but a step of the recipe left "
                f"the quantizer {kind}, which has one; leave the terms or that step out"
            )


def iter_linears(model: Model, index: int) -> Iterator[tuple[LinearSite, Tensor, Tensor | None]]:
    """All linears of a block, AdaLN first, or those outside the blocks."""
    yield from generator_of(model).linears(index)


def check_model(model: Model, recipe: Recipe) -> None:
    """Refuse a recipe that a model cannot take.

    Raises:
        RecipeError: a linear that the model does not have, or a part that works on VAR alone.
    """
    for name, reason in generator_of(model).absent.items():
        if name in recipe.layers:
            raise RecipeError(f"layers.{name}: {reason}")
    for key in recipe.terms:
        block = key.split(".")[1] if "." in key else ""
        if block and int(block) >= model.config.depth:
            raise RecipeError(
                f"terms.{key}: the model has blocks 0 to {model.config.depth - 1}; name one of them"
            )
    parts = [f"step {settings['step']}" for settings in recipe.steps]
    parts += ["mixed"] if recipe.mixed is not None else []
    parts += ["tune"] if recipe.tune is not None else []
    if recipe.attention is not None:
        parts.append(f"attention.kind {recipe.attention.get('kind', 'plain')}")
        parts += ["attention.share_halves"] if recipe.attention.get("share_halves") else []
    if recipe.calibration.resample is not None:
        parts.append("calibration.resample")
    for part in parts:
        var_only(model, part)
