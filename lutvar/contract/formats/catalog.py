# SPDX-License-Identifier: Apache-2.0
"""Named number formats. The only place in which a format of the product is defined."""

from __future__ import annotations

from .spec import NumberFormat, dual, exmy, integer

E2M1 = exmy("E2M1", 2, 1)
E1M2 = exmy("E1M2", 1, 2)
E3M0 = exmy("E3M0", 3, 0)
E2M3 = exmy("E2M3", 2, 3)
E3M2 = exmy("E3M2", 3, 2)
INT4 = integer("INT4", 4)
INT6 = integer("INT6", 6)
INT8 = integer("INT8", 8)
#: FPQVAR's 4-bit dual format for the GELU output: uniform below zero, float above; 15 codes used.
DUAL4 = dual("DUAL4", negative=E1M2, positive=E2M1)
#: FPQVAR's 6-bit dual format: -32..-1 below zero, E2M3 above; all 64 codes used.
DUAL6 = dual("DUAL6", negative=INT6, positive=E2M3)
#: OCP 8-bit floats, used for scales. E4M3 has one NaN per sign, E5M2 infinities and NaNs.
E4M3 = exmy("E4M3", 4, 3, finite_codes=127)
E5M2 = exmy("E5M2", 5, 2, finite_codes=124)

CATALOG: dict[str, NumberFormat] = {
    f.name: f for f in (E2M1, E1M2, E3M0, E2M3, E3M2, INT4, INT6, INT8, DUAL4, DUAL6, E4M3, E5M2)
}


def get_format(name: str) -> NumberFormat:
    """Look a format up by name; an unknown name lists the known ones."""
    try:
        return CATALOG[name]
    except KeyError:
        raise ValueError(f"unknown number format {name!r}; known: {', '.join(CATALOG)}") from None
