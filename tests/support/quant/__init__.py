# SPDX-License-Identifier: Apache-2.0
"""Second implementations of the arithmetic, and small models, blocks and layers."""
