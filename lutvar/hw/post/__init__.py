# SPDX-License-Identifier: Apache-2.0
"""POST: from the accumulators to memory: gate and residual, GELU, records of q, k and v."""
