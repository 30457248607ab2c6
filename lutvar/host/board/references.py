# SPDX-License-Identifier: Apache-2.0
"""What a self-test must find, in a file: recorded on the golden device, compared on a board.

The golden model needs PyTorch, a board's host has none: so its results travel as a file. It is
safetensors with one tensor for each result, and belongs to one accelerator and one packed model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from lutvar.files import write_file
from lutvar.host.errors import BadInput
from lutvar.host.transport import Bytes

FORMAT = "lutvar-selftest-1"


@dataclass
class References:
    """Results by name.

    Attributes:
        accelerator: hash of the accelerator, 16 hexadecimal digits.
        model: digest of the packed model of the image, "" without one.
        source: the device that they were recorded on.
        results: bytes by name; long ones as their SHA-256.
    """

    accelerator: str
    model: str = ""
    source: str = ""
    results: dict[str, Bytes] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises OutputError."""
        meta = {
            "format": FORMAT, "accelerator": self.accelerator, "model": self.model,
            "source": self.source, "sha256": self.digest(),
        }  # fmt: skip
        write_file(path, save(self.results, meta))

    @classmethod
    def load(cls, path: Path) -> References:
        """Read a file. Raises BadInput when it is none, cut or altered."""
        try:
            with safe_open(path, framework="numpy") as file:
                meta: Mapping[str, str] = file.metadata() or {}
                results = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            why = "no such file" if isinstance(error, FileNotFoundError) else error
            raise BadInput(
                f"{path}: {why}; record references with `lutvar selftest golden:CONFIG --record`"
            ) from None
        if meta.get("format") != FORMAT:
            raise BadInput(f"{path}: its format is not {FORMAT}; record it with this release")
        found = cls(meta.get("accelerator", ""), meta.get("model", ""), meta.get("source", ""),
                    results)  # fmt: skip
        if found.digest() != meta.get("sha256"):
            raise BadInput(f"{path}: its content is not that of its SHA-256; record it again")
        return found

    def digest(self) -> str:
        """SHA-256 over everything."""
        digest = hashlib.sha256("\0".join([self.accelerator, self.model, self.source]).encode())
        for name in sorted(self.results):
            digest.update(f"\0{name}\0{len(self.results[name])}\0".encode())
            digest.update(self.results[name].tobytes())
        return digest.hexdigest()

    def check(self, accelerator: str, model: str) -> None:
        """Refuse references of another accelerator or model. Raises BadInput."""
        for what, mine, theirs in (
            ("accelerator", self.accelerator, accelerator), ("packed model", self.model, model)
        ):  # fmt: skip
            if mine and theirs and mine != theirs:
                raise BadInput(
                    f"references of {what} {mine[:16]}, this is {theirs[:16]}; record them again "
                    "with `lutvar selftest golden:CONFIG --record`"
                )


def fingerprint(values: Bytes) -> Bytes:
    """SHA-256 as an array."""
    return np.frombuffer(hashlib.sha256(values.tobytes()).digest(), np.uint8)
