# SPDX-License-Identifier: Apache-2.0
"""Channel factors from a file, for example those that the authors of FPQVAR publish.

Source: FPQVAR (arXiv:2505.16335). Its code multiplies the input by the factor and divides the
weight; it saves one vector per block for each of qkv and fc1. The factors of the 512 x 512 model
have some entries that are not positive: their sign was never constrained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lutvar.files import not_a_file
from lutvar.quant.methods.layers.layer import Block
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.var.pickled import PickledError, read_pickled
from lutvar.quant.var.sites import SiteName

from .base import StepBase, register_step

#: Words in the keys or file names of factors -> linear. Longer words first.
_WORDS: dict[str, SiteName] = {"mat_qkv": "qkv", "qkv": "qkv", "fc1": "fc1"}


class FactorsError(ValueError):
    """A file of factors that cannot be used; says what was found."""


@register_step("factors")
class Factors(StepBase):
    """Multiplies the inputs by the factors of a file and divides the weights by them.

    Attributes:
        path: a .pt, .pth or .safetensors file: a table (or a list for each linear) of vectors whose
            keys name the block and, unless the file has one linear only, qkv or fc1.
        site: the linear, for files whose keys do not say.
        invert: use 1 / s (files that divide the input, as SmoothQuant does).
        replace: what happens to factors that are not positive. "one" puts 1, so that the channel is
            left alone; "magnitude" takes the absolute value, which is what a product of the sign in
            input and weight comes to without a rotation (a factor of 0 still becomes 1); "keep"
            keeps the sign, as the authors do: under a rotation that is another operand.

    Raises:
        FactorsError: `keep`, and a factor that is 0 or not finite.
    """

    path: Path
    site: Literal["qkv", "fc1"] | None = None
    invert: bool = False
    replace: Literal["one", "magnitude", "keep"] = "magnitude"

    def apply(self, block: Block) -> None:
        factors = read_factors(self.path, self.site)
        for layer in self.layers_in(block):
            if layer.site.name not in ("qkv", "fc1"):
                continue
            key = (layer.site.block, layer.site.name)
            if self.site is not None and layer.site.name != self.site:
                continue
            if key not in factors:
                blocks = sorted({b for b, name in factors if name == layer.site.name})
                raise FactorsError(
                    f"{self.path}: no factors for {layer.site}; it has {layer.site.name} of "
                    f"{len(blocks)} blocks. Take the file of this model"
                )
            s_I = factors[key]
            inputs = layer.weight_OI.shape[1]
            if s_I.shape != (inputs,):
                raise FactorsError(
                    f"{self.path}: {layer.site} has factors of shape {tuple(s_I.shape)}, the "
                    f"layer needs {inputs}. Take the file of this model"
                )
            if self.replace == "keep":
                if bool((~s_I.isfinite() | (s_I == 0)).any()):
                    raise FactorsError(
                        f"{self.path}: {layer.site} has factors that are 0 or not finite, which "
                        "replace: keep cannot keep; use one or magnitude"
                    )
                layer.notes.append(f"factors: {int((s_I < 0).sum())} of {inputs} negative, kept")
            else:
                s_I, changed = positive(s_I, self.replace)
                if changed:
                    layer.notes.append(
                        f"factors: {changed} of {inputs} were not positive, replaced "
                        f"({self.replace})"
                    )
            signed = self.replace == "keep"
            scale_channels(layer, 1 / s_I if self.invert else s_I, signed)


def positive(s_I: Tensor, rule: Literal["one", "magnitude"]) -> tuple[Tensor, int]:
    """Factors with those at most 0 (and those not finite) replaced, and how many those were."""
    bad_I = ~(s_I.isfinite() & (s_I > 0))
    by_I = torch.ones_like(s_I)
    if rule == "magnitude":
        by_I = torch.where(s_I.isfinite() & (s_I != 0), s_I.abs(), 1.0)
    return torch.where(bad_I, by_I, s_I), int(bad_I.sum())


def read_factors(path: Path, site: SiteName | None = None) -> dict[tuple[int, SiteName], Tensor]:
    """(block, linear) -> s [I] float32.

    Raises:
        FactorsError: a file that cannot be read, or without a vector that can be placed.
    """
    content = _load(path)
    stem = site or _word(path.stem)
    factors: dict[tuple[int, SiteName], Tensor] = {}
    for keys, value in _vectors(content, ()):
        names = [n for n in map(_word, keys) if n is not None]
        numbers = [int(part) for key in keys for part in _split(key) if part.isdigit()]
        name = names[-1] if names else stem
        if name is None or not numbers:
            where = ".".join(keys) or "(the vector itself)"
            raise FactorsError(
                f"{path}: {where} does not say which block and linear its factors belong to; "
                "keys need a number and qkv or fc1 (or give the setting `site`)"
            )
        factors[numbers[0], name] = value.detach().float().flatten()
    if not factors:
        raise FactorsError(f"{path}: holds no vectors")
    return factors


def _load(path: Path) -> object:
    if problem := not_a_file(path):
        raise FactorsError(f"{path}: {problem}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return read_pickled(path)
    except (SafetensorError, PickledError, OSError) as error:
        raise FactorsError(
            f"{path}: not a file of tensors alone ({error}); only tensors are read, never code"
        ) from error


def _vectors(value: object, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    """All tensors of nested tables and lists with the keys that lead to them."""
    if isinstance(value, Tensor):
        rows = [size for size in value.shape if size > 1]
        if len(rows) == 2 and value.shape[0] > 1:  # [blocks, I] in one tensor
            yield from _vectors(list(value), keys)
        elif value.is_floating_point():
            yield keys, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _vectors(item, (*keys, str(key)))
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for index, item in enumerate(value):
            yield from _vectors(item, (*keys, str(index)))


def _word(text: str) -> SiteName | None:
    return next((name for word, name in _WORDS.items() if word in text.lower()), None)


def _split(key: str) -> list[str]:
    """Parts of a key between separators, without the digits of names such as fc1."""
    for word in _WORDS:
        key = key.replace(word, " ")
    return "".join(c if c.isdigit() else " " for c in key).split()
