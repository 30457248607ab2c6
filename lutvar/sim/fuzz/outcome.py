# SPDX-License-Identifier: Apache-2.0
"""What a step of the fuzz did, as its bench found it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.isa import Region

Bytes = NDArray[np.uint8]


@dataclass
class Outcome:
    """What a step did.

    Attributes:
        done, error, info, address: ISR.done and the error registers at the end of the program.
        stopped: the program was stopped: by an event, or because it took too long.
        stuck: neither end nor error, and nothing moved any more.
        memory: contents of the regions afterwards.
        guard: addresses outside all regions that changed.
        problems: rules that were broken on the way: registers, AXI, resets.
        refused: address of the burst that the memory refused.
        counts: instructions that the units have completed.
        cycles: of the step.
    """

    done: bool = False
    error: int = 0
    info: int = 0
    address: int = 0
    stopped: bool = False
    stuck: bool = False
    memory: dict[Region, Bytes] = field(default_factory=dict)
    guard: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refused: int | None = None
    counts: tuple[int, ...] = ()
    cycles: int = 0
