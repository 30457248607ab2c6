# SPDX-License-Identifier: Apache-2.0
"""Search for the sizes of an accelerator: a space, what a candidate is worth, the Pareto front."""
