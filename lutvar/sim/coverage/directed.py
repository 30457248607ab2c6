# SPDX-License-Identifier: Apache-2.0
"""Right programs that have every bin of the instruction fields between them.

Chance alone hits a bin like "the last row of a row group" once in hundreds of programs. Making a
program takes milliseconds, running it on a build that counts takes a second; so many are made and
few are kept: those with a bin that none before them has.
"""

from __future__ import annotations

import numpy as np

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.sim.fuzz.case import Step
from lutvar.sim.fuzz.events import random_timing
from lutvar.sim.fuzz.wellformed import Generator

from .bins import Bin, field_bins

CANDIDATES = 3000  #: programs that are looked at; the last bins of small ones are rare
_LENGTH = 12  #: instructions of a program, about


def directed(
    config: AcceleratorConfig, seed: int, candidates: int = CANDIDATES
) -> tuple[list[Step], set[Bin]]:
    """Programs, and the bins that none of the candidates has.

    Args:
        config: the accelerator.
        seed: of all choices.
        candidates: programs that are made at most.
    """
    rng = np.random.default_rng(seed)
    generator = Generator(config, rng)
    missing = set(field_bins(config, []))
    kept: list[Step] = []
    for _ in range(candidates):
        made = generator.make(int(rng.integers(1, _LENGTH)))
        counts = field_bins(config, made.program.instructions)
        found = {bin_ for bin_ in missing if counts[bin_]}
        if found:
            missing -= found
            timing = random_timing(rng, config)
            kept.append(Step(made.program.encode(), True, made.fills, timing))
        if not missing:
            break
    return kept, missing
