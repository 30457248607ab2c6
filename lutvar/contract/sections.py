# SPDX-License-Identifier: Apache-2.0
"""Sections of the array, and which weights each of them takes.

Weights travel along the chain of row groups. For a tile of few rows the chain splits into 1, 2 or 4
sections that hold the same rows and multiply different outputs; each takes its weights at its head,
the first row group of the section. Outputs are counted in *stripes* of 128: with s sections,
stripe b belongs to section `b % s`, which multiplies its stripes one after the other; one stripe
of each section is a round. Stripe b comes through weight port `b % ports`, whatever s is, so one
layout in memory serves every s.
"""

from __future__ import annotations

from .accelerator import ROW_GROUP, STRIPE, AcceleratorConfig

#: Numbers of sections; the field `sections` of an instruction is the index in here.
SECTIONS = (1, 2, 4)


def section_heads(row_groups: int, sections: int) -> tuple[int, ...]:
    """First row group of each section, by section.

    With fewer sections the heads are the first ones of these. Section k takes stripes with
    `b % s == k` for any s, so the weight ports of a head stay few (`head_ports`).
    """
    half, quarter = row_groups // 2, row_groups // 4
    return {1: (0,), 2: (0, half), 4: (0, half, quarter, half + quarter)}[sections]


def tile_rows(config: AcceleratorConfig, sections: int) -> int:
    """Rows of a tile that s sections can hold: the row groups of each, rounded down."""
    return config.row_groups // sections * ROW_GROUP


def stripes(outputs: int) -> int:
    """Stripes of N outputs, N a multiple of 128."""
    return outputs // STRIPE


def rounds(outputs: int, sections: int) -> int:
    """Stripes that each section multiplies, the last of some of them none of its own."""
    return -(-stripes(outputs) // sections)


def section_port(section: int, turn: int, sections: int, ports: int) -> int:
    """Weight port of a section's stripe in round `turn`, counted from 0."""
    return (turn * sections + section) % ports


def head_ports(section: int, sections: int, ports: int) -> tuple[int, ...]:
    """Weight ports that a section's head takes stripes from, in the order of its rounds."""
    return tuple(section_port(section, r, sections, ports) for r in range(ports // sections))
