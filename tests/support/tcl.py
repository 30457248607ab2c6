# SPDX-License-Identifier: Apache-2.0
"""The Tcl scripts, and Tcl lists in Python."""

from __future__ import annotations

from pathlib import Path

import lutvar.vivado

SCRIPTS = Path(lutvar.vivado.__file__).with_name("tcl")
#: What both channels of both LPDDR4 controllers need to share a range.
INTERLEAVED = {
    "MC_CHANNEL_INTERLEAVING": "true",
    "MC_CH_INTERLEAVING_SIZE": "256_Bytes",
    "MC_INTERLEAVE_SIZE": "4096",
    "MC_LPDDR4_REFRESH_TYPE": "PER_BANK",
    "MC_TRC": "60000",
}


def words(text: str) -> list[str]:
    """Elements of a list as Tcl prints it: plain words, braces that nest, backslashes."""
    found: list[str] = []
    i = 0
    while i < len(text):
        if text[i].isspace():
            i += 1
            continue
        word = ""
        if text[i] == "{":
            depth, start = 1, i + 1
            while depth:
                i += 1
                depth += {"{": 1, "}": -1}.get(text[i], 0)
            word = text[start:i]
            i += 1
        else:
            while i < len(text) and not text[i].isspace():
                i += text[i] == "\\"
                word += text[i]
                i += 1
        found.append(word)
    return found
