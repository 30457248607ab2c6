# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks of hardware, and its export to the accelerator."""
