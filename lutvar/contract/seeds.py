# SPDX-License-Identifier: Apache-2.0
"""What a seed may be, the same in all commands and configurations."""

from __future__ import annotations

#: Largest seed: the generators take 32 bits, and a longer seed would be another name of a
#: shorter one.
MAX_SEED = (1 << 32) - 1


def check_seed(seed: int, what: str = "seed") -> int:
    """The seed itself when it is one. Raises ValueError otherwise."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{what} = {seed}: must be a whole number from 0 to {MAX_SEED}")
    return seed
