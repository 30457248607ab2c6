# SPDX-License-Identifier: Apache-2.0
"""In how many terms the decoder's operands come: forms with names, one of which ships a preset.

The formats are the preset's (`QuantConfig.weight_format` and `plain_format`). Figures for each form
are in docs/decoder.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import Conv, DecoderShape
from .errors import ConfigError
from .quant_preset import QuantConfig
from .terms import Terms


@dataclass(frozen=True)
class DecoderForm:
    """Terms of every convolution, (weights, inputs), and whether windows are rotated.

    Attributes:
        name: of the form.
        straight: of convolutions that no residual goes around.
        coarse, fine: of those in residual blocks and attention, below and at the image's size.
        rotate: windows pass the Hadamard transform.
    """

    name: str
    straight: Terms
    coarse: Terms
    fine: Terms
    rotate: bool = False

    def terms(self, shape: DecoderShape, conv: Conv) -> Terms:
        """Terms of one convolution."""
        if conv.straight:
            return self.straight
        return self.fine if conv.side == shape.image_side else self.coarse


_ONE, _INPUTS, _WEIGHTS, _TWO = Terms(1, 1), Terms(1, 2), Terms(2, 1), Terms(2, 2)
FORMS = {
    form.name: form
    for form in (
        DecoderForm("one", _ONE, _ONE, _ONE),
        DecoderForm("straight", _TWO, _ONE, _ONE),
        DecoderForm("weights", _WEIGHTS, _WEIGHTS, _WEIGHTS),
        DecoderForm("inputs", _INPUTS, _INPUTS, _INPUTS),
        DecoderForm("coarse", _TWO, _TWO, _ONE),
        DecoderForm("graded", _TWO, _TWO, _INPUTS),
        DecoderForm("two", _TWO, _TWO, _TWO),
        DecoderForm("two-rotated", _TWO, _TWO, _TWO, rotate=True),
    )
}
#: The form that ships, by bits of a code.
SHIPPED = {4: "two-rotated", 6: "graded"}


def get_form(name: str) -> DecoderForm:
    """A form by name. Raises ConfigError with the known ones."""
    if name not in FORMS:
        raise ConfigError(f"unknown form {name!r} of the decoder; known: {', '.join(FORMS)}")
    return FORMS[name]


def shipped_form(preset: QuantConfig) -> DecoderForm:
    """The form that goes with a preset's formats."""
    return FORMS[SHIPPED[preset.code_bits]]
