# SPDX-License-Identifier: Apache-2.0
"""Settings of every test run: one torch thread for each pytest worker, no plots on a screen."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported: workers that each use every core only slow each other down.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
