# SPDX-License-Identifier: Apache-2.0
"""Runs programs: reads and checks instructions, orders the units, fetches weights."""
