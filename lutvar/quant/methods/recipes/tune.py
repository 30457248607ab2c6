# SPDX-License-Identifier: Apache-2.0
"""What a quantized model stores, tuned end to end against the float model's logits.

Source: EfficientQAT (arXiv:2407.11062), section 3.3 (E2E-QP): the integers of the weights stay as
they are, their group scales are trained through the whole model. Here biases are trained besides
and, where the recipe says so, what is rounded to the integers (straight through, arXiv:1308.3432).
The float model is the teacher, on its own samples (LLM-QAT, arXiv:2305.17888, section 2). All of
it is stored in any case, so nothing is added at run time.

Guidance (arXiv:2207.12598) multiplies what quantization does to the difference of the conditional
and the unconditional half: at guidance t an error of one half's logits counts 1 + t times. So the
guided logits, from which tokens are drawn, can be an objective of their own.

What the recipe's `tune` says is done when all blocks are; unlike steps it needs the model whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lutvar.quant.methods.calibration.samples import CalibrationSet
from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.var import Var
from lutvar.quant.var.sampling import guidance_weight, guide
from lutvar.quant.var.sites import FloatAttention, FloatLinear, LinearSite

from .quantized_var import QuantizedVar
from .specs import TuneSpec
from .student import Student, TunedLayer, backends
from .training_state import TrainingState

#: Samples whose divergence decides whether the result is kept.
_CHECKED = 16
#: Steps in which the rate rises from 0.
_WARMUP = 5
#: Steps between two writings of the state.
_SAVE_EVERY = 10


class Divergence(NamedTuple):
    """Mean KL divergence of a token's distribution, nat, from the float model's.

    Attributes:
        halves: of conditional and unconditional logits.
        guided: of the guided ones, or of the float model's from them (`TuneSpec.direction`).
    """

    halves: Tensor
    guided: Tensor


def tune(
    model: QuantizedVar,
    var: Var,
    calibration: CalibrationSet,
    spec: TuneSpec,
    progress: Callable[[int, int], None] | None = None,
    state: Path | None = None,
) -> QuantizedVar:
    """The tuned model, or the one that was given if tuning did not help.

    Args:
        model: finished layers for `var`; not changed.
        var: the float model; not changed.
        calibration: samples; some also decide whether the result is kept.
        spec: the settings.
        progress: called as progress(steps done, steps).
        state: file from which an interrupted run continues; written every few steps.

    Raises:
        ValueError: a layer that cannot be tuned.
        CalibrationError: samples without their other half.
    """
    if calibration.rows is not None:
        raise CalibrationError(
            "tune needs both guidance halves of each sample; leave calibration.select out"
        )
    tuned = {
        site: TunedLayer(layer, spec.weights > 0 and spec.tunes(site.name), spec.rank)
        for site, layer in model.layers.items()
    }
    student = Student(var, tuned, model.recipe.attention)
    count = len(calibration)
    checked = torch.arange(0, count, max(count // _CHECKED, 1))[:_CHECKED]

    def divergence(samples: Tensor) -> Divergence:
        labels_B, latent_BLZ = calibration.of(samples).row_data(var.config.num_classes)
        with torch.no_grad(), backends(var, FloatLinear(), FloatAttention()):
            exact_BLV = var(labels_B, latent_BLZ)
        value_BLV = student(labels_B, latent_BLZ)
        guided = [guide_all(x, calibration.cfg, var) for x in (exact_BLV, value_BLV)]
        if spec.direction == "reverse":
            guided.reverse()
        return Divergence(mean_kl(exact_BLV, value_BLV), mean_kl(*guided))

    def objective(value: Divergence) -> Tensor:
        return value.halves + spec.guidance * value.guided if spec.guidance else value.halves

    def over_checked() -> Divergence:
        with torch.no_grad():
            parts = checked.split(spec.batch // 2)
            weighted = [[v * len(p) / len(checked) for v in divergence(p)] for p in parts]
        return Divergence(*(torch.stack(values).sum() for values in zip(*weighted, strict=True)))

    before = over_checked()
    groups = _groups(tuned, spec)
    if not groups:
        return model
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    lrs = [group["lr"] for group in optimizer.param_groups]
    variables = [v for group in optimizer.param_groups for v in group["params"]]
    training = None if state is None else TrainingState(state, variables, optimizer)
    first = 0 if training is None else training.load()
    with torch.enable_grad():
        for step in range(first, spec.steps):
            turn = 0.5 * (1 + math.cos(math.pi * step / spec.steps)) * min(1, (step + 1) / _WARMUP)
            for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr * turn
            samples = _samples_of_step(step, min(spec.batch // 2, count), count, model.recipe.seed)
            gradients = torch.autograd.grad(
                objective(divergence(samples)), variables, allow_unused=True
            )
            for variable, gradient in zip(variables, gradients, strict=True):
                variable.grad = gradient
            optimizer.step()
            if training is not None and (step + 1) % _SAVE_EVERY == 0:
                training.save(step + 1)
            if progress is not None:
                progress(step + 1, spec.steps)
    after = over_checked()
    note = (
        "tune: KL of the model on calibration samples "
        f"{float(before.halves):.4g} to {float(after.halves):.4g} nat, with guidance "
        f"{float(before.guided):.4g} to {float(after.guided):.4g}"
    )
    if not objective(after) < objective(before):
        site = next(iter(model.layers))
        noted = replace(model.layers[site], notes=[*model.layers[site].notes, f"{note}; not kept"])
        return replace(model, layers={**model.layers, site: noted})
    layers = {
        site: one.finished() if spec.tunes(site.name) else one.layer for site, one in tuned.items()
    }
    next(iter(layers.values())).notes.append(note)
    return replace(model, layers=layers)


def mean_kl(exact_BLV: Tensor, value_BLV: Tensor) -> Tensor:
    """KL divergence of softmax(value) from softmax(exact), nat, mean over tokens."""
    logs = value_BLV.log_softmax(-1), exact_BLV.log_softmax(-1)
    return F.kl_div(*logs, reduction="sum", log_target=True) / exact_BLV[..., 0].numel()


def guide_all(logits_2BLV: Tensor, cfg: float, var: Var) -> Tensor:
    """Guided logits of all scales at once, [B, L, V], as generation guides them."""
    sides = var.config.patch_nums
    weights = [guidance_weight(cfg, k, len(sides)) for k in range(len(sides))]
    counts = torch.tensor([side * side for side in sides])
    t_L1 = torch.tensor(weights, dtype=torch.float32).repeat_interleave(counts).unsqueeze(1)
    return guide(logits_2BLV, t_L1)


def _samples_of_step(step: int, size: int, count: int, seed: int) -> Tensor:
    """Which samples a step sees: `size` of one shuffled pass over all `count`, then the next."""
    steps_of_pass = count // size
    number, place = divmod(step, steps_of_pass)
    draw = torch.Generator().manual_seed((seed * 1009 + 1) * 1009 + number)
    return torch.randperm(count, generator=draw)[place * size : (place + 1) * size]


def _groups(tuned: dict[LinearSite, TunedLayer], spec: TuneSpec) -> list[dict[str, Any]]:
    """Adam's parameter groups."""
    groups: list[dict[str, Any]] = []
    for site, one in tuned.items():
        if not spec.tunes(site.name):
            continue
        lr = spec.weights * float(one.start_OI.abs().mean())
        if one.change is not None:
            # The product of both moves by about the same share of a weight as that itself would.
            up_OR, down_RI = one.change
            groups.append({"params": [up_OR.requires_grad_()], "lr": lr})
            share = spec.weights / len(down_RI) ** 0.5
            groups.append({"params": [down_RI.requires_grad_()], "lr": share})
        elif one.latent_OI is not None:
            groups.append({"params": [one.latent_OI.requires_grad_()], "lr": lr})
        if spec.scales and one.log_scale is not None:
            groups.append({"params": [one.log_scale.requires_grad_()], "lr": spec.scales})
        if spec.biases:
            # Without a bias to go by, a part of what the outputs reach for inputs of size 1.
            size = float(one.bias_O.abs().mean()) or 0.1 * float(one.start_OI.norm(dim=1).mean())
            groups.append({"params": [one.bias_O.requires_grad_()], "lr": spec.biases * size})
    return groups
