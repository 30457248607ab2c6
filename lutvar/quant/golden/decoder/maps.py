# SPDX-License-Identifier: Apache-2.0
"""Maps as they lie in memory, and the windows that FRONT reads from them (contract, section 14).

An activated map is FP16, a raw map float32. B images, S pixels to a side, C channels as stored.
"""

from __future__ import annotations

import numpy as np

from lutvar.contract.decoder import stored_channels
from lutvar.contract.quant_preset import GROUP
from lutvar.quant.golden.fp16 import Patterns
from lutvar.quant.golden.pointwise import Half


class ActivatedMap:
    """FP16 pixels with one pixel of zeros around them, and zeros behind the last one.

    Attributes:
        side: S, without the border.
        channels: C.
        patterns: [B, (S + 2)**2 * C + 128], as they lie in memory.
    """

    def __init__(self, values_BSSC: Half) -> None:
        B, S, _, channels = values_BSSC.shape
        self.side, self.channels = S, stored_channels(channels)
        size = (S + 2) ** 2 * self.channels
        self.patterns: Patterns = np.zeros((B, size + GROUP), np.uint16)
        inner = self.patterns[:, :size].reshape(B, S + 2, S + 2, self.channels)
        inner[:, 1:-1, 1:-1, :channels] = values_BSSC.view(np.uint16)

    @property
    def images(self) -> int:
        """B."""
        return len(self.patterns)

    def pixels(self) -> Half:
        """[B, S, S, C] without the border."""
        size = (self.side + 2) ** 2 * self.channels
        inner = self.patterns[:, :size].reshape(-1, self.side + 2, self.side + 2, self.channels)
        return inner[:, 1:-1, 1:-1].view(np.float16)

    def windows(self, span: int, taps: int, groups: int) -> Patterns:
        """The rows that FRONT reads of each line, [B, S + taps - 1, S / span, groups * 128].

        A window begins `(taps - 1) / 2` pixels to the left of its span and is contiguous; what it
        takes beyond its pixels are those that follow in memory. With 3 taps the lines above and
        below the map are among the lines, with 1 they are not.

        Args:
            span: pixels of the map that a row stands for.
            taps: 3 or 1.
            groups: values of a window / 128.
        """
        line, pixel = (self.side + 2) * self.channels, self.channels
        size = self.patterns.itemsize
        first = 0 if taps == 3 else line + pixel
        shape = (self.images, self.side + taps - 1, self.side // span, groups * GROUP)
        strides = (self.patterns.strides[0], line * size, span * pixel * size, size)
        return np.lib.stride_tricks.as_strided(self.patterns[:, first:], shape, strides)
