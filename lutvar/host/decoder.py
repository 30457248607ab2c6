# SPDX-License-Identifier: Apache-2.0
"""The image decoder on a host without PyTorch: ONNX Runtime and the file of `pack --decoder`.

decode = OnnxDecoder("digits.onnx")
pixels = decode(np.stack([image.latent for image in made]))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import BadInput

#: Names of the graph's input and output.
INPUT, OUTPUT = "latent", "image"


class OnnxDecoder:
    """Latent maps to images.

    Args:
        path: written by `lutvar pack --decoder`.
        threads: of one decoding; None: as many as there are cores.

    Raises:
        ModuleNotFoundError: the package onnxruntime is missing (extra `board`).
        BadInput: no file of a decoder.

    Attributes:
        shape: of the latent map that it takes, [Z, p, p].
    """

    def __init__(self, path: str | Path, threads: int | None = None) -> None:
        import onnxruntime

        options: Any = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # it has no class of its own for them in every release
            first = str(error).splitlines()[0]
            raise BadInput(
                f"{path}: no decoder ({first}); write it with lutvar pack --decoder"
            ) from error
        names = [x.name for x in (*self._session.get_inputs(), *self._session.get_outputs())]
        if names != [INPUT, OUTPUT]:
            raise BadInput(
                f"{path}: has {', '.join(names)} for {INPUT} and {OUTPUT}; write it with lutvar "
                "pack --decoder"
            )
        self._path = path
        self.shape: tuple[int, ...] = tuple(self._session.get_inputs()[0].shape[1:])

    def check(self, channels: int, side: int) -> None:
        """Raise BadInput unless it takes the latent maps of a model, [channels, side, side]."""
        want = channels, side, side
        if self.shape != want:
            raise BadInput(
                f"{self._path}: decodes latent maps of shape {self.shape}, the model's are {want}; "
                "take the file that lutvar pack --decoder wrote for this model"
            )

    def __call__(self, latents: NDArray[np.float32]) -> NDArray[np.float32]:
        """Images in [0, 1], float32 [B, channels, H, W], of latent maps [B, Z, p, p].

        One after the other: a batch takes no less time for each, and its memory.

        Raises:
            BadInput: latent maps of another shape.
        """
        for one in latents:
            self.check(one.shape[0], one.shape[-1])
        images = [
            self._session.run([OUTPUT], {INPUT: np.ascontiguousarray(one[None], np.float32)})[0]
            for one in latents
        ]
        result: NDArray[np.float32] = np.concatenate(images)
        return result
