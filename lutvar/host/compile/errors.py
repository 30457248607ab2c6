# SPDX-License-Identifier: Apache-2.0
"""Errors of the compiler."""

from __future__ import annotations


class CompileError(ValueError):
    """A model or pass that the accelerator cannot run; names the value, the limit and the fix."""


class ImageError(ValueError):
    """A packed transformer file that is missing, cut, altered or made for something else."""


class OrderError(ValueError):
    """A program in which a unit could read before another has written, or overwrite too early."""
