# SPDX-License-Identifier: Apache-2.0
"""Embeddings, codebook and feature map of a model, with numpy alone.

`lutvar pack --host-model` writes the file. Sums are taken in float64 and rounded once, so that all
processors make the same embeddings; PyTorch's may differ in the last bits.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lutvar.files import json_text, write_file

from .errors import BadInput

FORMAT = "lutvar-host-1"  #: the metadata entry of the file
Floats = NDArray[np.float32]
_SETTINGS = (
    "patch_nums", "phi_of_scale", "ratio", "names", "cfg", "top_k", "top_p", "fingerprint",
)  # fmt: skip
_ARRAYS = ("classes", "start", "positions", "words", "words_bias", "codebook", "phi", "phi_bias")


@dataclass(frozen=True, eq=False)
class HostModel:
    """What the host needs of a model besides its packed transformer. C channels, Z of a code.

    Attributes:
        patch_nums: side of each token map.
        classes: embeddings, [classes + 1, C]; the null class is the last.
        start: added to a class's embedding, [p0 * p0, C].
        positions: level and position of every token, [L, C].
        words, words_bias: from codes to embeddings, [C, Z] and [C].
        codebook: [V, Z].
        phi, phi_bias: convolutions, [K, Z, Z, 3, 3] and [K, Z].
        phi_of_scale: which one each scale uses.
        ratio: share of the convolution in phi.
        names: of the classes, without the null class.
        cfg, top_k, top_p: the model's own settings of the sampler.
        fingerprint: of the model, as packed images have it.
    """

    patch_nums: tuple[int, ...]
    classes: Floats
    start: Floats
    positions: Floats
    words: Floats
    words_bias: Floats
    codebook: Floats
    phi: Floats
    phi_bias: Floats
    phi_of_scale: tuple[int, ...]
    ratio: float
    names: tuple[str, ...] = ()
    cfg: float = 1.5
    top_k: int = 0
    top_p: float = 0.0
    fingerprint: str = ""

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all. Raises OutputError."""
        meta = {name: getattr(self, name) for name in _SETTINGS}
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in _ARRAYS}
        write_file(path, save(arrays, {FORMAT: json_text(meta)}))

    @classmethod
    def load(cls, path: str | Path) -> HostModel:
        """Read a file. Raises BadInput for anything else."""
        try:
            with safe_open(path, framework="numpy") as file:
                meta = json.loads((file.metadata() or {})[FORMAT])
                settings = {name: meta[name] for name in _SETTINGS}
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise BadInput(
                f"{path}: no model for a host ({error}); write it with lutvar pack --host-model"
            ) from error
        for name, values in arrays.items():
            if not np.isfinite(values).all():
                index = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
                raise BadInput(
                    f"{path}: value {values[index]} of {name} at {index} is not finite; the file "
                    "was altered, write it with lutvar pack --host-model"
                )
        for name in ("patch_nums", "phi_of_scale", "names"):
            settings[name] = tuple(settings[name])
        return cls(**settings, **arrays)

    def first(self, label: int) -> Floats:
        """Embeddings of scale 0, [p0 * p0, C]."""
        return self.classes[label] + self.start + self.positions[: len(self.start)]

    def next(self, scale: int, latent: Floats) -> Floats:
        """Embeddings of a scale from the latent map so far, [p * p, C]."""
        side = self.patch_nums[scale]
        at = sum(p * p for p in self.patch_nums[:scale])
        average = _average(latent.shape[-1], side)
        small = average @ latent.astype(np.float64) @ average.T
        words = small.reshape(len(small), -1).T @ self.words.T.astype(np.float64)
        words += self.words_bias
        words += self.positions[at : at + side * side]
        return words.astype(np.float32)

    def contribution(self, scale: int, tokens: NDArray[np.int64]) -> Floats:
        """What the tokens of a scale add to the latent map, [Z, p_last, p_last]."""
        return self.spread(scale, self.codebook[tokens])

    def spread(self, scale: int, cells: Floats) -> Floats:
        """What the cells of a scale, [p * p, Z], add to the latent map, [Z, p_last, p_last]."""
        side, full = self.patch_nums[scale], self.patch_nums[-1]
        h = cells.T.astype(np.float64).reshape(-1, side, side)
        if scale != len(self.patch_nums) - 1:
            enlarge = _bicubic(side, full)
            h = enlarge @ h @ enlarge.T
        if not self.ratio:
            return h.astype(np.float32)
        index = self.phi_of_scale[scale]
        # Channels last: a window's lines are contiguous.
        framed = np.zeros((full + 2, full + 2, len(h)))
        framed[1:-1, 1:-1] = h.transpose(1, 2, 0)
        windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(0, 1))
        around = windows.transpose(0, 1, 3, 4, 2).reshape(full * full, -1)
        weights = self.phi[index].transpose(2, 3, 1, 0).reshape(-1, len(h))
        moved = around @ weights.astype(np.float64) + self.phi_bias[index]
        mixed = h * (1 - self.ratio) + moved.T.reshape(h.shape) * self.ratio
        return mixed.astype(np.float32)


@cache
def _average(size: int, side: int) -> NDArray[np.float64]:
    """Means over areas, [side, size]."""
    matrix = np.zeros((side, size))
    for i in range(side):
        first, end = i * size // side, -(-(i + 1) * size // side)
        matrix[i, first:end] = 1 / (end - first)
    return matrix


@cache
def _bicubic(side: int, size: int) -> NDArray[np.float64]:
    """Cubic convolution (a = -0.75) between cell centres, borders repeated, [size, side]."""
    matrix = np.zeros((size, side))
    a = -0.75
    for i in range(size):
        at = (i + 0.5) * side / size - 0.5
        cell = int(np.floor(at))
        for j in range(cell - 1, cell + 3):
            d = abs(at - j)
            near = ((a + 2) * d - (a + 3)) * d * d + 1
            far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            matrix[i, min(max(j, 0), side - 1)] += near if d <= 1 else far
    return matrix
