# SPDX-License-Identifier: Apache-2.0
"""The two layers between which the values of a head may get another basis."""

from lutvar.quant.methods.layer import Block, Layer


def value_layers(block: Block, step: str) -> tuple[Layer, Layer]:
    """qkv and proj of a block, both still to be rounded.

    Raises:
        ValueError: the recipe lacks one of them, or an earlier step changed proj's input or rounded
            a weight; the text names the step.
    """
    missing = [name for name in ("qkv", "proj") if name not in block.layers]
    if missing:
        raise ValueError(
            f"{step}: block {block.index}: the recipe does not name "
            f"{' and '.join(missing)}; qkv and proj are changed together "
            "(an entry without quantizers is enough)"
        )
    qkv, proj = block.layers["qkv"], block.layers["proj"]
    if proj.operations:
        raise ValueError(f"{step}: it must come before steps that change proj's input")
    for layer in (qkv, proj):
        layer.need_unrounded(step)
    return qkv, proj
