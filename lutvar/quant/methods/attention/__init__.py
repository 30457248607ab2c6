# SPDX-License-Identifier: Apache-2.0
"""Attention with quantized operands: one module for each kind that recipes can name."""
