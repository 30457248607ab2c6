# SPDX-License-Identifier: Apache-2.0
"""Quantization methods as recipes: small steps that prepare the linears of one float model."""

from .calibration.samples import CalibrationSet, calibration_set
from .errors import CalibrationError
from .layers.layer import Block, Layer
from .quantizers.fake import FakeQuantizer, QuantizerSpec
from .recipes.build import QuantizedVar, quantize_var
from .recipes.recipe import Recipe, RecipeError, load_recipe, prepare_calibration, recipe_names

__all__ = [
    "Block",
    "CalibrationError",
    "CalibrationSet",
    "FakeQuantizer",
    "Layer",
    "QuantizedVar",
    "QuantizerSpec",
    "Recipe",
    "RecipeError",
    "calibration_set",
    "load_recipe",
    "prepare_calibration",
    "quantize_var",
    "recipe_names",
]
