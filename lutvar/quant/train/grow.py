# SPDX-License-Identifier: Apache-2.0
"""Cheaper training of a deep transformer: start it from a trained shallow one.

Source: progressive stacking (Gong et al., ICML 2019), here with halved gates.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from lutvar.quant.var import Var
from lutvar.quant.var.blocks import VarBlock


@torch.no_grad()
def deepened(model: Var) -> Var:
    """A model of twice the depth that computes nearly what the given one does.

    Every block becomes two equal ones with half the gates: the two half steps of the residual
    stream lead about where the one step led.

    Raises:
        ValueError: a model with shared AdaLN, whose gates cannot be halved per block.
    """
    config = model.config
    if config.shared_adaln:
        raise ValueError("shared_adaln = True: only models with AdaLN of each block can be grown")
    deep = Var(replace(config, depth=2 * config.depth))
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("blocks.")}
    for key, value in model.state_dict().items():
        if key.startswith("blocks."):
            _, index, rest = key.split(".", 2)
            for copy in range(2):
                state[f"blocks.{2 * int(index) + copy}.{rest}"] = value.clone()
    deep.load_state_dict(state)
    gates = 2 * config.width
    for block in deep.blocks:
        assert isinstance(block, VarBlock)
        linear = block.ada_lin[-1]
        assert isinstance(linear, torch.nn.Linear)
        linear.weight[:gates] *= 0.5
        linear.bias[:gates] *= 0.5
    return deep
