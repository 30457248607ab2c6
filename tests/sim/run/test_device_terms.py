# SPDX-License-Identifier: Apache-2.0
"""Layers with weights in two terms on the simulated accelerator, equal in every bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lutvar.contract.terms import Terms
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var.sites import LinearSite
from support.sim.device_rig import image_step, open_rig, random_transformer

pytestmark = pytest.mark.verilator

#: Layers of one tile and of several, of one part of the inputs and of two (fc2), the dual format.
SITES = (LinearSite(0, "qkv"), LinearSite(1, "proj"), LinearSite(1, "fc2"), LinearSite(2, "head"))
WEIGHTS = ((2, 1), (2, 1), (2, 1), (2, 1))
#: A dual format has one term of inputs.
BOTH = ((1, 2), (2, 2), (2, 1), (2, 2))


@pytest.mark.parametrize("terms", [WEIGHTS, BOTH], ids=["weights", "both"])
def test_operands_in_two_terms(verilog: Path, terms: tuple[tuple[int, int], ...]) -> None:
    model = random_transformer(terms=tuple(zip(SITES, terms, strict=True)))
    assert [layer.terms for layer in model.layers.values()].count(Terms(1, 1)) == 9 - len(SITES)
    rng, one = np.random.default_rng(11), GoldenTransformer(random_transformer())
    with open_rig(verilog, model) as rig:
        for position, tokens in ((0, 1), (1, 4)):
            steps = [image_step(rng, slot, slot + 1, position, tokens) for slot in (0, 1)]
            logits = rig.comparing.run(steps)
            others = one.run(steps)
            assert all(not np.array_equal(a, b) for a, b in zip(logits, others, strict=True))
        rig.check()
