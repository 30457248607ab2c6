# SPDX-License-Identifier: Apache-2.0
"""The layers that a recipe made for a model, and the model with these layers in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from lutvar.quant.methods.attention.cache import QuantizedCache
from lutvar.quant.methods.attention.channel_cache import ChannelCache
from lutvar.quant.methods.attention.registry import AttentionMethod
from lutvar.quant.methods.generator import Model, generator_of
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.var.sites import LinearSite

from . import files
from .recipe import Recipe

#: The model that is lent keeps its type.
M = TypeVar("M", bound=Model)


@dataclass
class QuantizedVar:
    """The layers that a recipe made for a model. The model itself is not changed.

    Attributes:
        recipe: what made it.
        layers: site -> finished layer.
        attention: how the products of attention are computed, or None for float.
    """

    recipe: Recipe
    layers: dict[LinearSite, Layer] = field(default_factory=dict)
    attention: AttentionMethod | None = None

    def save(self, path: str | Path, var: Model) -> None:
        """Write to a file, atomically; `var` is the model that it was made of. See `files`."""
        packed, tensors = files.pack_layers(self.layers.values())
        state = files.attention_state(self.attention, tensors)
        model = files.fingerprint(var)
        files.write(Path(path), self.recipe, model, packed, state, tensors)

    @classmethod
    def load(cls, path: str | Path, var: Model) -> QuantizedVar:
        """Read what `save` or `lutvar quantize` wrote for this model.

        Raises:
            QuantizedFileError: missing, damaged or foreign file, or another model's.
        """
        content = files.read(path, files.fingerprint(var))
        attention = files.restored_attention(content, var)
        return cls(content.recipe, content.unpacked(), attention)

    @contextmanager
    def installed(self, var: M) -> Iterator[M]:
        """The model with these layers in place, for the duration of the `with` block.

        Generation and teacher forcing must go scale by scale and call `var.step_hook`, as
        `generate` does; layers learn the scale step from it.
        """
        holder = var.backends
        before = holder.backend, holder.other, holder.attention, var.cache_factory, var.step_hook
        backend = _Backend(self, before[4], generator_of(var).null_input)
        holder.backend = holder.other = backend
        if self.attention is not None:
            holder.attention = self.attention
        spec, by_channel = self.recipe.cache, self.recipe.channel_cache
        values = not getattr(self.attention, "keeps_values", False)
        if spec is not None:
            var.cache_factory = lambda block: QuantizedCache(spec, values)
        if by_channel is not None:
            var.cache_factory = lambda block: ChannelCache(by_channel, values)
        var.step_hook = backend.begin_scale
        try:
            with torch.no_grad():
                yield var
        finally:
            holder.backend, holder.other, holder.attention, var.cache_factory, var.step_hook = (
                before
            )


class _Backend:
    """The linear backend while a `QuantizedVar` is installed."""

    def __init__(
        self, model: QuantizedVar, hook: Callable[[int], None] | None, null_D: Tensor | None
    ) -> None:
        self.model, self.hook, self.null_D, self.scale_index = model, hook, null_D, 0
        self.begin_rows = getattr(model.attention, "begin_rows", None)

    def begin_scale(self, scale_index: int) -> None:
        self.scale_index = scale_index
        if self.model.attention is not None:
            self.model.attention.begin_scale(scale_index)
        if self.hook is not None:
            self.hook(scale_index)

    def __call__(
        self, site: LinearSite, x_BLC: Tensor, weight_OI: Tensor, bias_O: Tensor | None
    ) -> Tensor:
        null_D, begin_rows = self.null_D, self.begin_rows
        if site.name == "head_ada" and begin_rows is not None and null_D is not None:
            # AdaLN vectors are computed once for new rows, from their class embedding.
            null_B = (x_BLC == null_D).all(-1).flatten()
            half = len(null_B) // 2
            begin_rows(
                2 * half == len(null_B) and bool(null_B[half:].all() and not null_B[:half].any())
            )
        layer = self.model.layers.get(site)
        if layer is None:
            return torch.nn.functional.linear(x_BLC, weight_OI, bias_O)
        if x_BLC.dim() == 2:  # AdaLN projections see one vector for each row
            return layer(x_BLC.unsqueeze(1), self.scale_index).squeeze(1)
        return layer(x_BLC, self.scale_index)
