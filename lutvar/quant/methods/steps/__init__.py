# SPDX-License-Identifier: Apache-2.0
"""The steps of recipes: one module for each method, named as recipes name it.

A step is a `StepBase` with the decorator `register_step`. A package of a user's declares an entry
point of the group `lutvar.steps` with the step's name; recipes can then name it like the others.
"""

from .base import STEPS, StepBase, make_step, register_step

__all__ = ["STEPS", "StepBase", "make_step", "register_step"]
