# SPDX-License-Identifier: Apache-2.0
"""Accelerators that are not simulated by this process: a board under Linux, or its stand-in."""
