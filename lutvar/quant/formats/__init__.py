# SPDX-License-Identifier: Apache-2.0
"""Number formats on tensors: codes, grouping, scale rules, rounding (PyTorch)."""
