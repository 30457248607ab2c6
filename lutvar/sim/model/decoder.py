# SPDX-License-Identifier: Apache-2.0
"""What decoding one image takes on the units: modelled, not simulated.

`decoder_cycles` counts what each unit has to do; `decoder_programs` schedules the programs that the
driver runs, with their waits, in the compiler's cycle model.
"""

from __future__ import annotations

from dataclasses import dataclass

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.contract.decoder import Conv, DecoderShape, Norm
from lutvar.contract.decoder_form import DecoderForm
from lutvar.contract.decoder_memory import check_decoder
from lutvar.host.compile.costs import CostModel
from lutvar.host.compile.decoder.compiler import DecoderCompiler
from lutvar.host.compile.decoder.layout import DecoderLayout
from lutvar.host.compile.decoder.pack import PackedDecoder
from lutvar.host.compile.decoder.tiling import Cycles, conv_cycles

__all__ = ["Cycles", "Programs", "decoder_cycles", "decoder_programs"]


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


@dataclass(frozen=True)
class Programs:
    """The programs that decode one image.

    Attributes:
        programs, instructions: their number, and instructions of all, END included.
        cycles: of all, one after the other, without the host's share between them.
        weight_bytes, map_bytes: of device memory.
    """

    programs: int
    instructions: int
    cycles: int
    weight_bytes: int
    map_bytes: int


def decoder_programs(shape: DecoderShape, form: DecoderForm, config: AcceleratorConfig) -> Programs:
    """Compile and schedule all programs of one image; a few seconds for 256 pixels.

    Raises:
        CompileError: the accelerator does not run it.
    """
    layout = DecoderLayout.of(shape, form, config, 0)
    # Neither exponents nor epsilons change what a program takes.
    packed = PackedDecoder(layout, (0,) * layout.sets, (0.0,) * len(layout.norms))
    compiler = DecoderCompiler(packed)
    made = [compiler.compile(stage) for stage in compiler.stages]
    return Programs(
        len(made), sum(len(one.program.instructions) for one in made),
        sum(one.cycles for one in made), layout.size, compiler.plan.work_size,
    )  # fmt: skip
