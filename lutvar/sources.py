# SPDX-License-Identifier: Apache-2.0
"""Hash of lutvar's own code, for whatever outlives the version that made it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


@cache
def sources_hash(*folders: str) -> str:
    """SHA-256 of all Python and JSON files in folders of the package, their names included.

    Args:
        folders: relative to the package, such as "contract" or "host/compile".
    """
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((PACKAGE / folder).rglob("*")):
            if path.suffix in (".py", ".json") and "__pycache__" not in path.parts:
                digest.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
