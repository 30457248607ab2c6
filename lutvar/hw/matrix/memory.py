# SPDX-License-Identifier: Apache-2.0
"""Moved to :mod:`lutvar.hw.units.memory`."""

from lutvar.hw.units.memory import READ_LATENCY, ChunkMemory, Fifo

__all__ = ["READ_LATENCY", "ChunkMemory", "Fifo"]
