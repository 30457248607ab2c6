# SPDX-License-Identifier: Apache-2.0
"""A linear layer on its way through a recipe, and what steps do to it."""
