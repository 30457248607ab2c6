# SPDX-License-Identifier: Apache-2.0
"""Calibration: samples, what each block sees of them, and statistics of that."""
