# SPDX-License-Identifier: Apache-2.0
"""Recipes and what runs them: from a YAML file and a float model to quantized layers and files."""
