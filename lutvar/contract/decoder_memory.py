# SPDX-License-Identifier: Apache-2.0
"""Whether a decoder fits an accelerator: its rows in the banks, its maps in memory."""

from __future__ import annotations

from typing import NamedTuple

from .accelerator import AcceleratorConfig
from .decoder import Conv, DecoderShape, Step, stored_channels
from .decoder_form import DecoderForm
from .errors import ConfigError
from .quant_preset import GROUP

SLACK_BYTES = 2 * GROUP  #: zeros behind an activated map


def activated_bytes(side: int, channels: int) -> int:
    """Bytes of an activated map with its border and the zeros behind it."""
    return (side + 2) ** 2 * stored_channels(channels) * 2 + SLACK_BYTES


def raw_bytes(side: int, channels: int) -> int:
    """Bytes of a raw map."""
    return side**2 * stored_channels(channels) * 4


class Place(NamedTuple):
    """Where a map lies. Raw maps of a name share their place, whatever their sizes.

    Activated maps of other sizes have places of their own: a border is written once, with zeros,
    and no map of another size leaves values there. `side` and `channels` are 0 for raw maps.
    """

    name: str
    side: int = 0
    channels: int = 0

    @property
    def activated(self) -> bool:
        """It has a border, and zeros behind it."""
        return self.side > 0


def target_place(step: Step) -> Place:
    """Where a step's result lies."""
    if isinstance(step, Conv):
        return Place(step.target)
    return Place(step.target, step.side, stored_channels(step.channels))


def source_place(conv: Conv) -> Place:
    """Where a convolution's input lies."""
    return Place(conv.source, conv.side, stored_channels(conv.inputs))


def shortcut_place(conv: Conv) -> Place:
    """Where the input of a convolution's shortcut lies."""
    return Place(conv.shortcut, conv.side, stored_channels(conv.shortcut_inputs))


def map_bytes(shape: DecoderShape) -> dict[Place, int]:
    """Bytes of each place: what the largest step needs that writes it. The latent map is first."""
    found = {
        source_place(shape.convolutions[0]): activated_bytes(shape.latent_side, shape.z_channels)
    }
    for step in shape.steps:
        place = target_place(step)
        found[place] = max(found.get(place, 0), _target_bytes(step))
    return found


def _target_bytes(step: Step) -> int:
    if isinstance(step, Conv):
        return raw_bytes(step.side * (2 if step.double else 1), step.outputs)
    return activated_bytes(step.side, step.channels)


def check_decoder(
    shape: DecoderShape, form: DecoderForm, config: AcceleratorConfig, memory: int | None = None
) -> None:
    """Raise ConfigError for a decoder that an accelerator does not run; names the limit.

    Args:
        shape, form: the decoder.
        config: accelerator.
        memory: bytes there are for maps; None: enough.
    """
    if not config.decoder:
        raise ConfigError(
            f"{config.name} is built without what the decoder needs of POST (decoder: false); "
            "decode on the host, or use an accelerator with it"
        )
    for conv in shape.convolutions:
        if conv.columns > config.acc_depth:
            raise ConfigError(
                f"{conv.name}: rows of {conv.columns} results; acc_depth of {config.name} is "
                f"{config.acc_depth}. Use an accelerator with deeper accumulators"
            )
        terms = form.terms(shape, conv)
        if terms.inputs > config.input_terms:
            raise ConfigError(
                f"{conv.name}: inputs in {terms.inputs} terms; {config.name} has input_terms "
                f"{config.input_terms}. Use a form with one term, or an accelerator with two"
            )
        if terms.inputs > config.bank_groups:
            raise ConfigError(
                f"{conv.name}: inputs in {terms.inputs} terms; bank_groups of {config.name} is "
                f"{config.bank_groups}. Use a form with one term"
            )
    need = sum(map_bytes(shape).values())
    if memory is not None and need > memory:
        raise ConfigError(
            f"maps of {shape.image_side} x {shape.image_side} pixels take {need} bytes; there are "
            f"{memory}. Decode smaller images, or give the device more memory"
        )
