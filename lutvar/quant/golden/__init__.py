# SPDX-License-Identifier: Apache-2.0
"""The golden model: the accelerator's arithmetic at the level of codes, on the CPU."""
