# SPDX-License-Identifier: Apache-2.0
"""Quantization methods as recipes: small steps that prepare the linears of one float model."""

from lutvar.quant.methods.calibration.prepare import prepare_calibration
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar

from .calibration.samples import CalibrationSet, calibration_set
from .errors import CalibrationError, QuantizedFileError, RecipeError
from .layers.layer import Block, Layer
from .quantizers.fake import FakeQuantizer
from .quantizers.spec import QuantizerSpec
from .recipes.build import quantize_var
from .recipes.preset import preset_recipe
from .recipes.recipe import Recipe, load_recipe, recipe_names

__all__ = [
    "Block",
    "CalibrationError",
    "CalibrationSet",
    "FakeQuantizer",
    "Layer",
    "QuantizedFileError",
    "QuantizedVar",
    "QuantizerSpec",
    "Recipe",
    "RecipeError",
    "calibration_set",
    "load_recipe",
    "prepare_calibration",
    "preset_recipe",
    "quantize_var",
    "recipe_names",
]
