# SPDX-License-Identifier: Apache-2.0
"""What is found out about a file, and how it is said."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PIECE = 1 << 24  #: bytes hashed at a time


class InspectError(ValueError):
    """A file that lutvar did not write, or a damaged one; says which."""


@dataclass(frozen=True)
class FileReport:
    """What a file is.

    Attributes:
        kind: in few words.
        format: its name or version in the file; "" where the format has none.
        checked: what was verified; damage is an InspectError and no report.
        read_by: commands and classes that read it.
        facts: what else is in it, by name, as JSON values.
    """

    kind: str
    format: str = ""
    checked: str = ""
    read_by: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self, path: Path) -> dict[str, Any]:
        """Plain data; sizes of folders are those of the files right in them."""
        return {
            "path": str(path),
            "kind": self.kind,
            "format": self.format or None,
            "bytes": size_of(path),
            "checked": self.checked or None,
            "read_by": self.read_by or None,
            **self.facts,
        }

    def text(self, path: Path) -> str:
        """Lines for people."""
        rows = {"format": self.format, "size": f"{size_of(path):,} bytes"}
        rows |= {name.replace("_", " "): _shown(value) for name, value in self.facts.items()}
        rows |= {"checked": self.checked, "read by": self.read_by}
        rows = {name: value for name, value in rows.items() if value}
        width = max(map(len, rows))
        lines = [f"  {name.ljust(width)}  {value}" for name, value in rows.items()]
        return "\n".join([f"{path}: {self.kind}", *lines])


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    if isinstance(value, list):
        shown = [_shown(item) for item in value[:12]]
        return ", ".join(shown) + (f" and {len(value) - 12} more" if len(value) > 12 else "")
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files in a folder."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.iterdir() if item.is_file())
    return path.stat().st_size


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            total.update(piece)
    return total.hexdigest()


def read_json(path: Path) -> Any:
    """JSON of a file. Raises InspectError for anything else."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise InspectError(
            f"{path}: begins like JSON but is none ({error}); it was cut or altered"
        ) from error


def shape_text(shape: Mapping[str, Any]) -> str:
    """A transformer's sizes in a line; those of RAR and PAR have tokens in place of scales."""
    if "patch_nums" not in shape:
        return (
            f"width {shape['width']}, depth {shape['depth']}, {shape['heads']} heads, "
            f"vocabulary {shape['vocab']}, {shape['tokens']} tokens"
        )
    scales = ", ".join(f"{n}x{n}" for n in shape["patch_nums"])
    return (
        f"width {shape['width']}, depth {shape['depth']}, {shape['heads']} heads, "
        f"vocabulary {shape['vocab']}, scales {scales}"
    )
