# SPDX-License-Identifier: Apache-2.0
"""Computing on one thread: sums then have one order, whatever the machine does besides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def single_thread() -> Iterator[None]:
    """torch computes on one thread inside; the number of before is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
