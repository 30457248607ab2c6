# SPDX-License-Identifier: Apache-2.0
"""Errors of methods, apart from the modules that raise them so that all can."""

from __future__ import annotations


class CalibrationError(ValueError):
    """Calibration data that cannot be used; says what is missing and what to do."""


class RecipeError(ValueError):
    """A recipe that cannot be used; names the key, the value and the rule."""


class QuantizedFileError(ValueError):
    """A file of a quantized model that cannot be used; says what was found and what to do."""
