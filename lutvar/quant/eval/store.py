# SPDX-License-Identifier: Apache-2.0
"""A folder of sampled chunks: resumable, and of one model, method and setting only.

Each chunk is one file that is renamed into place when it is complete, so what is there is whole
and an interrupted run continues with what is missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lutvar.files import json_text, make_folder, write_file
from lutvar.quant.var.tensors import tensor_bytes

#: Version of the chunks' content.
FORMAT = 1
_RUN = "run.json"


class StoreError(ValueError):
    """A folder that cannot take or give the chunks asked for."""


class ChunkStore:
    """Chunks of one run.

    Attributes:
        folder: where they are.
    """

    def __init__(self, folder: str | Path, run: Mapping[str, Any]) -> None:
        """Open or make the folder.

        Args:
            folder: the folder; made if missing.
            run: everything the chunks depend on, as JSON values.

        Raises:
            StoreError: the folder holds something else.
        """
        self.folder = Path(folder)
        self._claim({"format": FORMAT, **run})

    def _claim(self, run: dict[str, Any]) -> None:
        # Through JSON, so that tuples compare as the lists they become.
        current = json.loads(json_text(run))
        path = self.folder / _RUN
        if not path.exists():
            if self.folder.exists() and any(self.folder.glob("*.safetensors")):
                raise StoreError(
                    f"{self.folder}: holds files but no {_RUN}; give another folder or empty it"
                )
            make_folder(self.folder)
            # Several processes may come here at once; they write the same.
            write_file(path, json_text(current, indent=1) + "\n")
            return
        try:
            on_disk = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise StoreError(f"{path}: damaged ({error}); delete the folder") from error
        if on_disk != current:
            keys = sorted(k for k in {*on_disk, *current} if on_disk.get(k) != current.get(k))
            described = "; ".join(
                f"{k}: {on_disk.get(k)!r} there, {current.get(k)!r} now" for k in keys
            )
            raise StoreError(
                f"{self.folder}: holds samples of another run ({described}); give another folder "
                "or delete this one"
            )

    def path(self, chunk: int) -> Path:
        """File of one chunk."""
        return chunk_path(self.folder, chunk)

    def missing(self, chunks: Iterable[int]) -> list[int]:
        """Those of the chunks that are not there."""
        return [c for c in chunks if not self.path(c).exists()]

    def write(self, chunk: int, tensors: dict[str, Tensor]) -> None:
        """Store a chunk, whole or not at all."""
        write_file(self.path(chunk), tensor_bytes(tensors))

    def read(self, chunks: Iterable[int], names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors of some chunks, joined along the first dimension.

        Raises:
            StoreError: a chunk that is missing or damaged.
        """
        parts: dict[str, list[Tensor]] = {name: [] for name in names}
        for chunk in chunks:
            content = read_chunk(self.folder, chunk)
            for name, values in parts.items():
                if name not in content:
                    raise _damaged(self.path(chunk), f"no {name}")
                values.append(content[name])
        return {name: torch.cat(values) for name, values in parts.items()}


def chunk_path(folder: Path, chunk: int) -> Path:
    """File of one chunk."""
    return folder / f"chunk-{chunk:06d}.safetensors"


def read_chunk(folder: Path, chunk: int) -> dict[str, Tensor]:
    """Everything of one chunk. Raises StoreError when it is missing or damaged."""
    path = chunk_path(folder, chunk)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, what: str) -> StoreError:
    return StoreError(f"{path}: missing or damaged ({what}); delete it and run again")
