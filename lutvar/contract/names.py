# SPDX-License-Identifier: Apache-2.0
"""Names that become files, Verilog and Tcl, and seeds: what they may be, in one place."""

from __future__ import annotations

import re

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_LONGEST = 100
#: Largest seed: the generators take 32 bits, and a longer seed would be another name of a
#: shorter one.
MAX_SEED = (1 << 32) - 1


def check_name(name: str, what: str = "name") -> str:
    """The name itself when it can stand in a path, in Verilog and in Tcl unchanged.

    Args:
        name: letters, digits, `_` and `-` (not first), at most 100.
        what: how an error calls it.

    Raises:
        ValueError: another character, no character, or too many.
    """
    if len(name) > _LONGEST:
        raise ValueError(f"{what} has {len(name)} characters; at most {_LONGEST} are allowed")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{what} {name!r} becomes a file name: only letters, digits, _ and - (not first) are "
            "allowed"
        )
    return name


def check_seed(seed: int, what: str = "seed") -> int:
    """The seed itself when it is one. Raises ValueError otherwise."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"{what} = {seed}: must be a whole number from 0 to {MAX_SEED}")
    return seed
