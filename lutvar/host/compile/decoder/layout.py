# SPDX-License-Identifier: Apache-2.0
"""Where the decoder's weights lie in region MODEL, behind those of the transformer.

Order: the convolutions, each as its parts by their index (`Conv.parts`) and then its shortcut's;
then, norm by norm, weights and biases, float32 [C] each, which the host reads. A part is a linear
layer: its panels lie as those of the transformer's layers do (`model_layout`). Parts start at
multiples of 4 KiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import Conv, DecoderShape, Norm
from lutvar.contract.decoder_form import DecoderForm
from lutvar.contract.decoder_memory import check_decoder
from lutvar.contract.errors import ConfigError
from lutvar.contract.memory import panel_beats
from lutvar.contract.terms import Terms
from lutvar.host.compile.errors import CompileError
from lutvar.host.compile.layer_plan import LayerPlan, WeightTile, split_inputs
from lutvar.host.compile.model_layout import PAGE


@dataclass(frozen=True)
class ConvPlan:
    """Where the weights of a convolution lie.

    Attributes:
        conv: the step.
        parts: its layers by the index that `Conv.parts` gives; the shortcut's is the last.
        sets: place of each layer's first set of weights among those of all layers.
    """

    conv: Conv
    parts: tuple[LayerPlan, ...]
    sets: tuple[int, ...]

    @property
    def shortcut(self) -> int:
        """Index of the shortcut's layer; -1 without one."""
        return len(self.parts) - 1 if self.conv.shortcut else -1


@dataclass(frozen=True)
class NormPlan:
    """Where the host finds a norm's weights: byte offsets of two vectors of float32."""

    channels: int
    weight: int
    bias: int


@dataclass(frozen=True)
class DecoderLayout:
    """Offsets in region MODEL.

    Attributes:
        shape, form, config: what it was computed for.
        start, end: bytes that it takes, multiples of 4 KiB.
        convolutions, norms: by name.
        sets: sets of weights of all layers; each has a scale exponent.
    """

    shape: DecoderShape
    form: DecoderForm
    config: AcceleratorConfig
    start: int
    end: int
    convolutions: Mapping[str, ConvPlan]
    norms: Mapping[str, NormPlan]
    sets: int

    @classmethod
    def of(
        cls, shape: DecoderShape, form: DecoderForm, config: AcceleratorConfig, start: int
    ) -> DecoderLayout:
        """Lay out a decoder behind what ends at `start`.

        Raises CompileError for a decoder that the accelerator cannot run; names the limit.
        """
        try:
            check_decoder(shape, form, config)
        except ConfigError as error:
            raise CompileError(str(error)) from error
        at = start
        convolutions: dict[str, ConvPlan] = {}
        sets = 0
        for conv in shape.convolutions:
            terms, layers, firsts = form.terms(shape, conv), list[LayerPlan](), list[int]()
            count = 1 + max(index for line in conv.parts for _, index in line)
            widths = [conv.groups] * count + ([conv.shortcut_groups] if conv.shortcut else [])
            for number, groups in enumerate(widths):
                layer = _layer(f"{conv.name}, part {number}", conv, groups, terms, form, config, at)
                size = layer.panel_bytes(layer.tiles[0])
                at += -(-size // PAGE) * PAGE
                layers.append(layer)
                firsts.append(sets)
                sets += terms.weights
            convolutions[conv.name] = ConvPlan(conv, tuple(layers), tuple(firsts))
        norms: dict[str, NormPlan] = {}
        for step in shape.steps:
            if isinstance(step, Norm) and step.name:
                size = step.channels * 4
                norms[step.name] = NormPlan(step.channels, at, at + size)
                at += 2 * size
        end = -(-at // PAGE) * PAGE
        return cls(shape, form, config, start, end, convolutions, norms, sets)

    @cached_property
    def size(self) -> int:
        """Bytes."""
        return self.end - self.start


def _layer(
    name: str,
    conv: Conv,
    groups: int,
    terms: Terms,
    form: DecoderForm,
    config: AcceleratorConfig,
    offset: int,
) -> LayerPlan:
    """One part: all columns in one accumulator bank, its groups in slices that a bank holds."""
    bits, columns = config.quant_config.code_bits, conv.columns
    beats = panel_beats(columns, bits, first=True), panel_beats(columns, bits, first=False)
    return LayerPlan(
        name, "decoder", groups, columns, form.rotate, False, terms,
        (WeightTile(0, columns, offset, *beats),),
        split_inputs(groups, config.bank_groups // terms.inputs),
    )  # fmt: skip
