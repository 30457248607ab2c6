# SPDX-License-Identifier: Apache-2.0
"""Simulated units, streams and memories around them, and cases for their tests."""
