# SPDX-License-Identifier: Apache-2.0
"""Images as latent maps, with numpy alone: embeddings, sampling and feature map around a device.

    model = HostModel.load("digits.host")
    with Session.open("uio:lutvar", packed) as session:
        made = generate(model, session.transformer, labels=[3], seeds=[0], cfg=1.5)
        pixels = session.decoder(made[0].latent[None])

`lutvar pack --host-model` writes the file. `session.decoder` needs a packed model with a decoder; a
host that decodes takes `lutvar.host.decoder`. Sums are taken in float64 and rounded once, so that
all processors make the same embeddings; PyTorch's may differ in the last bits. The sampler is the
same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lutvar.contract.editing import Edit, check_edits
from lutvar.contract.labels import Label, resolve_classes
from lutvar.contract.passes import ImageStep, Transformer, guidance_at
from lutvar.contract.sampling import TokenStream, filter_logits, softmax
from lutvar.contract.smoothing import smooth_weights
from lutvar.files import json_text, write_file
from lutvar.times import Times

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


class Generated(NamedTuple):
    """One image: tokens of each scale [p * p], and the decoder's input [Z, p_last, p_last]."""

    tokens: list[NDArray[np.int64]]
    latent: Floats


def generate(
    model: HostModel,
    transformer: Transformer,
    labels: Sequence[Label],
    seeds: Sequence[int],
    cfg: float = 1.5,
    top_k: int = 0,
    top_p: float = 0.0,
    edits: Sequence[Edit] | None = None,
    smooth: bool = False,
    times: Times | None = None,
) -> list[Generated]:
    """Generate images together, each in the slot of its index.

    Args:
        model: embeddings and codebook.
        transformer: on a device with as many slots as labels.
        labels: classes; -1 or their number for none, None for a class drawn from the seed.
        seeds: one for each image.
        cfg, top_k, top_p: guidance at the last scale, and what may be drawn, as in
            `lutvar generate`.
        edits: tokens of given images and what stays of them, one for each image.
        smooth: put mixtures of codebook entries into the map (`lutvar.contract.smoothing`).
        times: where the time of each part is counted; default: nowhere.

    Raises:
        BadInput: labels, seeds and edits that do not fit the model or each other.
    """
    null = len(model.classes) - 1
    sides = model.patch_nums
    try:
        streams = [TokenStream(seed) for seed in seeds]
        classes = resolve_classes(labels, seeds, null)
        if edits is not None:
            check_edits(edits, len(classes), sides, len(model.codebook))
    except ValueError as error:
        raise BadInput(str(error)) from error
    latents = [np.zeros((model.codebook.shape[1], sides[-1], sides[-1]), np.float32)] * len(labels)
    tokens: list[list[NDArray[np.int64]]] = [[] for _ in labels]
    times = times or Times()
    with times("embeddings"):
        x = [(model.first(label), model.first(null)) for label in classes]
    position = 0
    for scale, side in enumerate(sides):
        guidance = guidance_at(cfg, scale, len(sides))
        steps = [
            ImageStep(i, label, position, x[i][0], x[i][1] if cfg else None, guidance)
            for i, label in enumerate(classes)
        ]
        for stream in streams:
            stream.ahead(side * side * len(model.codebook) * (2 if smooth else 1))
        with times("transformer"):
            results = transformer.run(steps)
        for i, logits in enumerate(results):
            weights = None
            with times("sampling"):
                if smooth:
                    left = filter_logits(logits, top_k, top_p)
                    drawn = streams[i].draw(left)
                    noise = streams[i].gumbel(left)
                    weights = smooth_weights(left, noise, scale, len(sides), softmax)
                else:
                    drawn = streams[i].draw_filtered(logits, top_k, top_p)
            if edits is not None:
                drawn = edits[i].tokens_after(scale, drawn)
            tokens[i].append(drawn)
            with times("feature map"):
                cells = model.codebook[drawn]
                if weights is not None:
                    mixed = (weights.astype(np.float64) @ model.codebook).astype(np.float32)
                    cells = mixed if edits is None else edits[i].merged(scale, mixed, cells)
                latents[i] = latents[i] + model.spread(scale, cells)
            if scale + 1 < len(sides):
                with times("embeddings"):
                    both = model.next(scale + 1, latents[i])
                x[i] = both, both
        position += side * side
    return [Generated(t, latent) for t, latent in zip(tokens, latents, strict=True)]
