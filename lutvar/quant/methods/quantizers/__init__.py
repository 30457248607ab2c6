# SPDX-License-Identifier: Apache-2.0
"""Fake quantizers: grids, ranges from data, fixed and logarithmic scales."""
