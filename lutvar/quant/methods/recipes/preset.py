# SPDX-License-Identifier: Apache-2.0
"""A preset of the accelerator as a recipe: one kind of file for all quantized models."""

from __future__ import annotations

from lutvar.contract.formats.ties import TieRule
from lutvar.contract.quant_preset import QuantConfig
from lutvar.quant.methods.errors import RecipeError
from lutvar.quant.methods.quantizers.spec import QuantizerSpec
from lutvar.quant.var.sites import SITE_NAMES, SiteName

from .recipe import Recipe
from .specs import LayerSpec


def preset_recipe(config: QuantConfig) -> Recipe:
    """The recipe whose export is `ptq.quantize_transformer` under a preset, to the last bit.

    The head is treated as fc1, as the accelerator does.

    Raises:
        RecipeError: a tie rule for activations that recipes cannot state.
    """
    if config.ties != TieRule.EVEN:
        raise RecipeError(
            f"preset {config.name}: ties are '{config.ties}'; inputs of a recipe round ties to "
            "even, so this preset cannot be kept in a file (`lutvar generate` runs it directly)"
        )
    sites: tuple[SiteName, ...] = (*SITE_NAMES, "head")
    treatment = {name: config.sites["fc1" if name == "head" else name] for name in sites}
    rotated = [name for name in sites if treatment[name].rotate]
    weight = QuantizerSpec(format=config.weight)
    return Recipe(
        name=config.name,
        title=f"Preset {config.name}",
        source="docs/arithmetic.md, section 6: round to nearest",
        layers={
            name: LayerSpec(weight=weight, input=QuantizerSpec(format=site.activation))
            for name, site in treatment.items()
        },
        steps=({"step": "array-rounding", "rotate": rotated, "seed": config.hadamard_seed},),
    )
