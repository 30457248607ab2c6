# SPDX-License-Identifier: Apache-2.0
"""The sign vector of the group-wise Hadamard transform, for host, golden model and gateware."""

from __future__ import annotations

from functools import lru_cache

from .quant_preset import GROUP

#: Vectors already drawn, so that torch is not needed: bit j of the number is 1 where the sign of
#: element j is +1.
_DRAWN = {42: 0x656B5FE7FF4ABAF601AB7C173FD74222}


def draw_sign_vector(seed: int) -> tuple[int, ...]:
    """Draw the vector as the FPQVAR code does: 128 fair bits of torch's CPU generator, 1 for +1.

    Raises:
        RuntimeError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise RuntimeError(
            f"the sign vector of seed {seed} must be drawn with torch, which is not installed; "
            f"install lutvar's quantization extra or use seed {', '.join(map(str, _DRAWN))}"
        ) from error
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(low=0, high=2, size=(GROUP,), generator=generator)
    return tuple(2 * bit - 1 for bit in bits.tolist())


@lru_cache
def sign_vector(seed: int = 42) -> tuple[int, ...]:
    """The 128 signs (+1 or -1) for a seed of the quantization preset.

    Seed 42 is built in; any other needs torch. Raises RuntimeError without it.
    """
    if seed in _DRAWN:
        return tuple(1 if _DRAWN[seed] >> j & 1 else -1 for j in range(GROUP))
    return draw_sign_vector(seed)
