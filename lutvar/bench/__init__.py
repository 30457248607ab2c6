# SPDX-License-Identifier: Apache-2.0
"""Measurements: area from synthesis, simulation speed, memory, against their targets."""
