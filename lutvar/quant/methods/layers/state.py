# SPDX-License-Identifier: Apache-2.0
"""Layers as JSON and tensors, and back: what a file of a recipe's result is made of.

Operations and quantizers of steps are dataclasses whose fields are tensors, numbers, text, lists,
tables, quantizers or other such classes. A class becomes storable with `register`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from lutvar.quant.methods.errors import QuantizedFileError
from lutvar.quant.methods.quantizers.fake import FakeQuantizer, Scales
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.var.sites import LinearSite

from .grid import GridWeight, grid_weight, on_grid, second_grid, values
from .layer import Layer
from .ranged import RangedLayer

_T = TypeVar("_T", bound=type)
#: Name in files -> "module:class" (modules of `lutvar.quant.methods`), or the class.
CLASSES: dict[str, str | type] = {
    "ChannelScale": "layers.operations:ChannelScale",
    "ChannelShift": "layers.operations:ChannelShift",
    "FixedRange": "calibration.fixed_range:FixedRange",
    "FullRotation": "layers.hadamards:FullRotation",
    "LogTable": "quantizers.logarithmic:LogTable",
    "NoisyInput": "steps.noisyquant:NoisyInput",
    "Rotation": "layers.operations:Rotation",
    "ShiftUniformLog2": "quantizers.logarithmic:ShiftUniformLog2",
    "ShiftedLog": "steps.adalog:ShiftedLog",
    "SignRegions": "steps.gelu_regions:SignRegions",
    "StaticQuantizer": "quantizers.static:StaticQuantizer",
    "TokenRanges": "steps.distribution_groups:TokenRanges",
}
#: Files of format 1 call the scale `step` and keep minus the zero point as `zero`:
#: class -> field -> (name in files, sign).
_STORED: dict[str, dict[str, tuple[str, int]]] = {
    "FixedRange": {"scale": ("step", 1), "zero_point": ("zero", 1)},
    "Scales": {"zero_point": ("zero", -1)},
    "StaticQuantizer": {"scale_S": ("step_S", 1), "zero_point_S": ("zero_S", -1)},
}
_METHODS = __package__.rpartition(".")[0]
#: Tensors of at least so many values are stored once, however many layers share them.
_SHARED_VALUES = 1 << 12
Tensors = dict[str, Tensor]


def register(cls: _T) -> _T:
    """Class decorator: files may hold objects of this dataclass.

    Raises:
        TypeError: not a dataclass, or another class has this name.
    """
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__}: only dataclasses can be kept in files")
    if CLASSES.setdefault(cls.__name__, cls) is not cls and _class_named(cls.__name__) is not cls:
        raise TypeError(f"{cls.__name__}: another class with this name is registered")
    return cls


def _class_named(name: str) -> type | None:
    """The class that files call by a name."""
    entry = CLASSES.get(name)
    if isinstance(entry, str):
        module, kind = entry.split(":")
        return cast(type, getattr(importlib.import_module(f"{_METHODS}.{module}"), kind))
    return entry


def pack(value: Any, name: str, tensors: Tensors) -> Any:
    """JSON data for a value; its tensors go to `tensors` under names that begin with `name`.

    Raises:
        QuantizedFileError: something in it cannot be kept in a file.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        if tensor.numel() >= _SHARED_VALUES:
            shape = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
            content = hashlib.sha256(shape + tensor.numpy().tobytes()).hexdigest()
            name = f"shared.{content[:24]}"
        tensors[name] = tensor
        return {"tensor": name}
    if type(value) is FakeQuantizer:
        packed = {"quantizer": value.spec.model_dump()}
        return packed if value.terms == 1 else packed | {"terms": value.terms}
    if isinstance(value, QuantizerSpec):
        return {"spec": value.model_dump()}
    if isinstance(value, list | tuple):
        items = [pack(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
        return {"list": items, "tuple": isinstance(value, tuple)}
    if isinstance(value, Mapping) and all(isinstance(k, str) for k in value):
        return {"table": {k: pack(v, f"{name}.{k}", tensors) for k, v in value.items()}}
    kind = type(value).__name__
    if _class_named(kind) is not type(value) or not dataclasses.is_dataclass(value):
        raise QuantizedFileError(
            f"{name}: objects of class {kind} cannot be kept in a file; put `state.register` on "
            "its class"
        )
    fields = {}
    for f in dataclasses.fields(value):
        if f.init:
            stored, sign = _stored(kind, f.name)
            content = getattr(value, f.name)
            content = content if sign == 1 else -content
            fields[stored] = pack(content, f"{name}.{stored}", tensors)
    return {"object": kind, "fields": fields}


def _stored(kind: str, field: str) -> tuple[str, int]:
    """Name of a field in files, and the sign with which it is kept there."""
    return _STORED.get(kind, {}).get(field, (field, 1))


def unpack(data: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack` took. Raises QuantizedFileError for a class that is not known here."""
    if not isinstance(data, Mapping):
        return data
    if "tensor" in data:
        return tensors[data["tensor"]]
    if "quantizer" in data:
        return FakeQuantizer(QuantizerSpec.model_validate(data["quantizer"]), data.get("terms", 1))
    if "spec" in data:
        return QuantizerSpec.model_validate(data["spec"])
    if "list" in data:
        items = [unpack(item, tensors) for item in data["list"]]
        return tuple(items) if data["tuple"] else items
    if "table" in data:
        return {k: unpack(v, tensors) for k, v in data["table"].items()}
    cls = _class_named(data["object"])
    if cls is None:
        raise QuantizedFileError(
            f"the file holds an object of class {data['object']!r}, which is not registered here; "
            "use the version of lutvar that wrote it"
        )
    values: dict[str, Any] = {}
    for f in dataclasses.fields(cls):
        stored, sign = _stored(data["object"], f.name)
        if stored in data["fields"]:
            content = unpack(data["fields"][stored], tensors)
            values[f.name] = content if sign == 1 else -content
    return cls(**values)


def pack_layer(layer: Layer, tensors: Tensors, name: str | None = None) -> dict[str, Any]:
    """JSON data of a finished layer; weights as integers and scales where that is exact.

    `name` begins the names of its tensors, by default the site.
    """
    name = str(layer.site) if name is None else name
    if isinstance(layer, RangedLayer):
        parts = [pack_layer(p, tensors, f"{name}.{i}") for i, p in enumerate(layer.parts)]
        first = {"block": layer.site.block, "name": layer.site.name, "prefix": name}
        return {**first, "parts": parts, "starts": list(layer.starts), "notes": layer.notes,
                "grid": all(part["grid"] for part in parts)}  # fmt: skip
    assert layer.rounded_OI is not None, f"{layer.site}: finish() was not called"
    whole = on_grid(layer)
    sets = {name: (layer.rounded_OI, grid_weight(layer) if whole else None)}
    if layer.second_OI is not None:
        sets[f"{name}.second"] = layer.second_OI, second_grid(layer) if whole else None
    for prefix, (weight_OI, grid) in sets.items():
        if grid is None:
            tensors[f"{prefix}.weight"] = weight_OI.detach().contiguous()
            continue
        tensors[f"{prefix}.integers"] = grid.integers_OI.contiguous()
        for key, scale in grid.scales._asdict().items():
            if scale is not None:
                stored, sign = _stored("Scales", key)
                tensors[f"{prefix}.scales.{stored}"] = (scale if sign == 1 else -scale).contiguous()
    if layer.bias_O is not None:
        tensors[f"{name}.bias"] = layer.bias_O.detach().contiguous()
    return {
        "block": layer.site.block,
        "name": layer.site.name,
        "prefix": name,
        "shape": list(layer.rounded_OI.shape),
        "operations": pack(layer.operations, f"{name}.operations", tensors),
        "activation": pack(layer.activation, f"{name}.activation", tensors),
        "weight": pack(layer.weight, f"{name}.quantizer", tensors),
        "low_rank": pack(layer.low_rank, f"{name}.low_rank", tensors),
        "notes": layer.notes,
        "grid": whole,
    }


def _scales(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Fields of `Scales` as `pack_layer` put them down under a layer's name."""
    fields: dict[str, Any] = {}
    for key in Scales._fields:
        stored, sign = _stored("Scales", key)
        value = tensors.get(f"{name}.scales.{stored}")
        fields[key] = value if value is None or sign == 1 else -value
    return fields


def unpack_grid(
    data: Mapping[str, Any], tensors: Mapping[str, Tensor], second: bool = False
) -> GridWeight | None:
    """Integers and scales of a layer whose entry says `grid`, as `pack_layer` put them down.

    With `second` those of the second set of a weight in two terms, None for one term.
    """
    name = f"{data['prefix']}.second" if second else data["prefix"]
    if second and f"{name}.integers" not in tensors:
        return None
    return GridWeight(tensors[f"{name}.integers"], Scales(**_scales(name, tensors)))


def unpack_layer(
    data: Mapping[str, Any], tensors: Mapping[str, Tensor], weights: bool = True
) -> Layer:
    """A finished layer; its `weight_OI` is the rounded weight.

    Args:
        data, tensors: what `pack_layer` made.
        weights: False leaves the weight on the meta device, for reports.
    """
    site, name = LinearSite(data["block"], data["name"]), data["prefix"]
    if "parts" in data:
        parts = [unpack_layer(part, tensors, weights) for part in data["parts"]]
        last = parts[-1]
        return RangedLayer(
            site, last.weight_OI, last.bias_O, activation=last.activation, weight=last.weight,
            rounded_OI=last.rounded_OI, notes=list(data["notes"]), parts=parts,
            starts=tuple(data["starts"]),
        )  # fmt: skip
    quantizer = cast("FakeQuantizer | None", unpack(data["weight"], tensors))
    scales: Scales | None = None
    second_OI: Tensor | None = None
    second_scales: Scales | None = None
    if not weights:
        weight_OI = torch.empty(data["shape"], device="meta", dtype=torch.float32)
    elif data["grid"]:
        assert quantizer is not None
        grid, second = unpack_grid(data, tensors), unpack_grid(data, tensors, second=True)
        assert grid is not None
        scales, weight_OI = grid.scales, values(quantizer, grid)
        if second is not None:
            second_scales, second_OI = second.scales, values(quantizer, second)
    else:
        weight_OI = tensors[f"{name}.weight"]
        second_OI = tensors.get(f"{name}.second.weight")
    return Layer(
        site,
        weight_OI,
        tensors.get(f"{name}.bias"),
        operations=unpack(data["operations"], tensors),
        activation=unpack(data["activation"], tensors),
        weight=quantizer,
        rounded_OI=weight_OI,
        weight_scales=scales,
        second_OI=second_OI,
        second_scales=second_scales,
        low_rank=unpack(data["low_rank"], tensors),
        notes=list(data["notes"]),
    )
