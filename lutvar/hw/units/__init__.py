# SPDX-License-Identifier: Apache-2.0
"""Arithmetic, memories and queues that the units of the accelerator are made of."""
