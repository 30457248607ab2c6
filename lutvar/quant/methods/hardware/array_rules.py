# SPDX-License-Identifier: Apache-2.0
"""Which linears and which attention the accelerator computes (docs/arithmetic.md, 3 to 6, 9 to 11).

Every function yields short sentences on what does not exist; none means that it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.quant_preset import GROUP
from lutvar.quant.formats.scales import ScaleRule
from lutvar.quant.methods.attention.plain import PlainAttention
from lutvar.quant.methods.layers.grid import on_grid as is_on_grid
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.operations import (
    VECTOR_SITES,
    ChannelScale,
    ChannelShift,
    Rotation,
    hadamard_matrix,
)
from lutvar.quant.methods.layers.ranged import RangedLayer
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import QuantizerSpec, ScaleType, Sharing
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar

KvFormat = Literal["E2M3", "E2M1"]


def layer_problems(layer: Layer, on_grid: bool | None = None) -> Iterator[str]:
    """What the accelerator lacks for one linear; `on_grid` if that is known of the weight."""
    if isinstance(layer, RangedLayer):
        yield "a weight for each range of scale steps; the program has one for a layer"
        return
    if layer.weight is None:
        yield "float weight; the array multiplies codes only"
    else:
        if layer.weight.format.dual:
            yield f"weights in the dual format {layer.weight.format.name}; they need one scale"
        yield from _spec_problems("weight", layer.weight.spec, dynamic=False)
    if layer.activation is None:
        yield "float input; the array multiplies codes only"
    elif type(layer.activation) is not FakeQuantizer:
        kind = type(layer.activation).__name__
        yield f"input quantizer {kind}; the unit computes the absolute maximum of each group"
    else:
        yield from _spec_problems("input", layer.activation.spec, dynamic=True)
    if layer.low_rank is not None:
        rank = layer.low_rank[0].shape[0]
        yield f"a low-rank branch of rank {rank}; there is no array for float products"
    yield from _operation_problems(layer)
    if on_grid is None:
        on_grid = is_on_grid(layer)
    if layer.weight is not None and not on_grid:
        yield "weights that are not grid integers times known scales"


def _spec_problems(what: str, spec: QuantizerSpec, dynamic: bool) -> Iterator[str]:
    if spec.group != GROUP:
        size = f"groups of {spec.group}" if isinstance(spec.group, int) else f"a {spec.group}"
        yield f"{what}: one scale for {size}; the accelerator has groups of {GROUP}"
    if dynamic and (spec.half or spec.exact_rule not in (None, ScaleRule.EXACT)):
        yield f"{what}: rounded by {_rounding(spec)}; the quantizer's ties go to the even multiple"
    if spec.asymmetric:
        yield f"{what}: zero points; sums of the array have none"
    if spec.by_sign:
        yield f"{what}: a scale for each sign of {spec.format}; only DUAL4 and DUAL6 have two"
    if dynamic and spec.scale not in (ScaleType.FP32, ScaleType.FP16):
        yield f"{what}: {spec.scale} scales; the quantizer takes the absolute maximum"
    if dynamic and spec.floor:
        yield f"{what}: scales of at least {spec.floor:g}; the quantizer has no such floor"
    if dynamic and spec.clip != 1:
        yield f"{what}: clipped at {spec.clip:g}; the quantizer takes the absolute maximum"


def _rounding(spec: QuantizerSpec) -> str:
    """The rule of a quantizer that is not the accelerator's."""
    rule = "" if spec.exact_rule is None else f"rule {spec.exact_rule}"
    return " and ".join(filter(None, (rule, "to FP16" if spec.half else "")))


def _operation_problems(layer: Layer) -> Iterator[str]:
    rotations = 0
    for operation in layer.operations:
        if isinstance(operation, ChannelScale | ChannelShift):
            what = "factors" if isinstance(operation, ChannelScale) else "shifts"
            if layer.site.name not in VECTOR_SITES or rotations:
                yield f"channel {what} that neither a norm nor GELU in front takes in"
        elif isinstance(operation, Rotation):
            rotations += 1
            if rotations > 1 or not is_hadamard(operation):
                yield f"{operation.describe()} that is not one signed Hadamard transform of {GROUP}"
        else:
            yield f"{operation.describe()}; the accelerator's program has no such step"


def is_hadamard(operation: Rotation) -> bool:
    """Whether this is the transform that the accelerator computes (any seed)."""
    if operation.seed is None or operation.matrix_DD.shape[0] != GROUP:
        return False
    return torch.equal(operation.matrix_DD, hadamard_matrix(GROUP, operation.seed).float())


def attention_problems(quantized: QuantizedVar) -> tuple[KvFormat, list[str], list[str]]:
    """Format of the records, what is missing, remarks."""
    missing: list[str] = []
    records: dict[str, str] = {}
    method, cache = quantized.attention, quantized.recipe.cache
    if method is not None and type(method) is not PlainAttention:
        missing.append(
            f"attention {type(method).__name__}; the unit has one product of records for each key"
        )
    elif isinstance(method, PlainAttention):
        if method.settings.share_halves:
            missing.append("attention: both halves share one result; the program computes both")
        if method.settings.probabilities is not None:
            missing.append("attention: quantized probabilities; the unit keeps 15 bits of each")
        specs = {n: getattr(method.settings, n) for n in ("q", "k", "v")}
        missing += _record_problems("attention", specs, records)
    if cache is not None and (cache.again or cache.memory is not None):
        missing.append("cache: quantized again or across records; each record is written once")
    if cache is not None:
        missing += _record_problems("cache", {"keys and values": cache}, records)
    if quantized.recipe.channel_cache is not None:
        missing.append("channel_cache: bits by channel; records have one scale for each token")
    formats = sorted(set(records.values()))
    if len(formats) > 1:
        missing.append(f"attention and cache in {', '.join(formats)}; records have one format")
    kv: KvFormat = "E2M1" if formats == ["E2M1"] else "E2M3"
    remarks = []
    if len(records.keys() & {"q", "k", "v"}) < 3:
        names = ", ".join(records) or "nothing"
        remarks.append(
            f"attention: the recipe quantizes {names}; the accelerator keeps q, k and v as {kv} "
            "records from their own scale step on"
        )
    elif isinstance(method, PlainAttention) and not method.settings.keep_length:
        remarks.append("attention: the accelerator gives quantized q and k their length back")
    return kv, missing, remarks


def _record_problems(
    where: str, specs: Mapping[str, QuantizerSpec | None], records: dict[str, str]
) -> Iterator[str]:
    for name, spec in specs.items():
        if spec is None:
            continue
        plain = not (spec.asymmetric or spec.by_sign or spec.half) and spec.clip == 1
        plain = plain and spec.exact_rule in (None, ScaleRule.EXACT)
        if spec.format in ("E2M3", "E2M1") and spec.group in (Sharing.ROW, HEAD_DIM) and plain:
            records[name] = spec.format
        else:
            yield f"{where}: {name} in {spec.format}; records are E2M3 or E2M1 with 64 to a scale"
