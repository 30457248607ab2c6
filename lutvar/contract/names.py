# SPDX-License-Identifier: Apache-2.0
"""Names that become files, Verilog and Tcl: what they may be, in one place."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from .seeds import MAX_SEED

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_LONGEST = 100


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


#: A name in a configuration.
Name = Annotated[str, AfterValidator(check_name)]
#: A seed in a configuration.
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
