# SPDX-License-Identifier: Apache-2.0
"""Packing a decoder: its rounded weights as bytes behind the transformer's.

Its input is a protocol, so the host need not know how the weights were rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import DecoderShape
from lutvar.contract.decoder_form import DecoderForm, get_form
from lutvar.contract.errors import ConfigError
from lutvar.host.compile.errors import CompileError
from lutvar.host.compile.pack_layer import CodedLinear, pack_layer, put

from .layout import DecoderLayout

Bytes = NDArray[np.uint8]


class CodedConv(Protocol):
    """A convolution as codes: its parts, the shortcut's last."""

    @property
    def layers(self) -> Sequence[CodedLinear]:
        """All parts."""
        ...


class CodedNorm(Protocol):
    """A group norm."""

    @property
    def weight(self) -> NDArray[np.float32]:
        """[C]."""
        ...

    @property
    def bias(self) -> NDArray[np.float32]:
        """[C]."""
        ...

    @property
    def eps(self) -> float:
        """Added to the variance."""
        ...


class CodedDecoder(Protocol):
    """A decoder at the level of codes; `quant.golden.decoder.QuantizedDecoder` is one."""

    @property
    def shape(self) -> DecoderShape:
        """Sizes and steps."""
        ...

    @property
    def form(self) -> DecoderForm:
        """Terms and rotation."""
        ...

    @property
    def convolutions(self) -> Mapping[str, Any]:
        """By name, each a `CodedConv`."""
        ...

    @property
    def norms(self) -> Mapping[str, Any]:
        """By name, each a `CodedNorm`."""
        ...


@dataclass(frozen=True, eq=False)
class PackedDecoder:
    """What a host needs of a packed decoder besides its bytes.

    Attributes:
        layout: where everything lies.
        exponents: scale exponent of each set of weights, in the order of the layout.
        epsilons: of each norm, in the order of `layout.norms`.
    """

    layout: DecoderLayout
    exponents: tuple[int, ...]
    epsilons: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, have, want in (
            ("exponents", len(self.exponents), self.layout.sets),
            ("epsilons", len(self.epsilons), len(self.layout.norms)),
        ):
            if have != want:
                raise CompileError(f"{have} {name} of a decoder; its sizes need {want}")

    def as_json(self) -> dict[str, Any]:
        """For the metadata of an image file."""
        return {
            "shape": asdict(self.layout.shape), "form": self.layout.form.name,
            "exponents": list(self.exponents), "epsilons": list(self.epsilons),
        }  # fmt: skip

    @classmethod
    def of_json(
        cls, data: Mapping[str, Any], config: AcceleratorConfig, start: int
    ) -> PackedDecoder:
        """The inverse of `as_json`. Raises CompileError for anything else."""
        try:
            sizes = {**data["shape"], "ch_mult": tuple(data["shape"]["ch_mult"])}
            layout = DecoderLayout.of(DecoderShape(**sizes), get_form(data["form"]), config, start)
            return cls(layout, tuple(data["exponents"]), tuple(data["epsilons"]))
        except (ConfigError, KeyError, TypeError) as error:
            raise CompileError(f"its decoder was altered ({error})") from error

    def norm(self, image: Bytes, name: str) -> tuple[NDArray[Any], NDArray[Any], float]:
        """Weight and bias [C] float32 of a norm, and its epsilon."""
        plan = self.layout.norms[name]
        weight, bias = (
            image[at : at + 4 * plan.channels].view(np.float32) for at in (plan.weight, plan.bias)
        )
        return weight, bias, self.epsilons[list(self.layout.norms).index(name)]


def plan_decoder(decoder: CodedDecoder, config: AcceleratorConfig, start: int) -> PackedDecoder:
    """Lay out a decoder behind what ends at `start`.

    Raises CompileError for one that the accelerator cannot run.
    """
    layout = DecoderLayout.of(decoder.shape, decoder.form, config, start)
    exponents = [
        int(weights.exponent)
        for name in layout.convolutions
        for layer in decoder.convolutions[name].layers
        for weights in layer.sets
    ]
    epsilons = [float(decoder.norms[name].eps) for name in layout.norms]
    return PackedDecoder(layout, tuple(exponents), tuple(epsilons))


def put_decoder(image: Bytes, decoder: CodedDecoder, packed: PackedDecoder) -> None:
    """Write a decoder's weights to their places in an image."""
    layout = packed.layout
    for name, plan in layout.convolutions.items():
        conv: CodedConv = decoder.convolutions[name]
        for part, layer in zip(plan.parts, conv.layers, strict=True):
            if layer.terms != part.terms:
                raise CompileError(f"{part.name}: terms {layer.terms}, its form has {part.terms}")
            pack_layer(image, part, layer, layout.config)
    for name, place in layout.norms.items():
        norm: CodedNorm = decoder.norms[name]
        put(image, place.weight, np.asarray(norm.weight, np.float32))
        put(image, place.bias, np.asarray(norm.bias, np.float32))
