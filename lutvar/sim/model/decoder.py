# SPDX-License-Identifier: Apache-2.0
"""What decoding one image takes on the units, from counts: modelled, not simulated."""

from __future__ import annotations

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import Conv, DecoderShape, Norm
from lutvar.contract.decoder_form import DecoderForm
from lutvar.contract.decoder_memory import check_decoder
from lutvar.host.compile.costs import CostModel
from lutvar.host.compile.decoder.tiling import Cycles, conv_cycles

__all__ = ["Cycles", "decoder_cycles"]


def decoder_cycles(
    shape: DecoderShape, form: DecoderForm, config: AcceleratorConfig
) -> list[Cycles]:
    """Cycles of all convolutions of one image, in order; attention is the host's.

    Raises:
        ConfigError: the accelerator does not run it.
    """
    check_decoder(shape, form, config)
    costs, found, norms = CostModel(config), list[Cycles](), list[Norm]()
    for step in shape.steps:
        if isinstance(step, Norm):
            norms.append(step)
        elif isinstance(step, Conv):
            terms = form.terms(shape, step)
            found.append(conv_cycles(step, norms, terms, config, costs))
            norms = []
    return found
