# SPDX-License-Identifier: Apache-2.0
"""What a host needs of the small model of `compile_cases.transformer`: random embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lutvar.host.generate import HostModel


def host_model(width: int = 256, vocab: int = 200, codes: int = 8) -> HostModel:
    """Three classes, scales of 1, 2, 3 and 4."""
    rng = np.random.default_rng(4)

    def some(*shape: int) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32)

    return HostModel(
        (1, 2, 3, 4), some(4, width), some(1, width), some(30, width), some(width, codes),
        some(width), some(vocab, codes), some(2, codes, codes, 3, 3) / np.float32(8),
        some(2, codes),
        (0, 0, 1, 1), 0.5,
    )  # fmt: skip
