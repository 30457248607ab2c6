# SPDX-License-Identifier: Apache-2.0
"""Bytes that each memory port moves in a cycle, from the sizes of a configuration.

One transformer block of width `max_width`, a full tile of rows, is looked at twice: with few keys,
where the array sets the pace, and with `max_keys`, where attention may. Each port gets the larger
of its two averages, at most its width. Weights come faster for a tile of few rows in
`max_sections`: their ports get that rate. What this leaves out: the head (POST writes a whole beat
in each cycle then) and the program (a few instructions in thousands of cycles).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lutvar.contract.accelerator import (
    BEAT_BYTES,
    HEAD_DIM,
    ROW_GROUP,
    WEIGHT_BLOCK,
    AcceleratorConfig,
)
from lutvar.contract.isa import Region
from lutvar.contract.memory import RECORD_BYTES, block_beats, block_cycles
from lutvar.contract.quant_preset import GROUP
from lutvar.contract.register_map import WEIGHT_PORTS


@dataclass(frozen=True)
class Flow:
    """What a port does to a region."""

    port: str  #: as in `m_axi_<port>`
    write: bool
    region: Region


def matrix_cycles(config: AcceleratorConfig, sections: int = 1) -> float:
    """Cycles of the array for qkv, proj, fc1 and fc2 of a tile; fc2 twice if it is dual."""
    block = block_cycles(config.quant_config.code_bits, False, config.weight_ports, sections)
    return _vectors(config) * block / WEIGHT_BLOCK / sections


def attend_cycles(config: AcceleratorConfig, keys: int) -> int:
    """Cycles of ATTEND for a tile: one key a cycle for `attention_rows` rows of a head."""
    return config.max_width // HEAD_DIM * -(-config.rows // config.attention_rows) * keys


def flows(config: AcceleratorConfig) -> dict[Flow, float]:
    """Bytes in a cycle, at most 64 for each port and direction."""
    width, rows = config.max_width, config.rows
    tile = width * rows  # values
    matrix = matrix_cycles(config)
    scans = attend_cycles(config, config.max_keys) * RECORD_BYTES

    def read(port: str, region: Region) -> Flow:
        return Flow(port, False, region)

    def write(port: str, region: Region) -> Flow:
        return Flow(port, True, region)

    moved: dict[Flow, float] = {
        # x twice as float32, o and h as FP16.
        read("front", Region.WORK): tile * (4 + 4 + 2 + 4 * 2),
        read("front", Region.MODEL): 2 * 2 * width * 2,
        read("post", Region.WORK): tile * (4 + 4),
        # Two gates and kappa, for each 16 rows.
        read("post", Region.MODEL): 3 * width * 2 * (rows // ROW_GROUP),
        # q records, x twice, h; and k and v records.
        write("post", Region.WORK): tile * (1 + 4 + 4 + 4 * 2),
        write("post", Region.CACHE): tile * 2,
        read("keys", Region.WORK): tile,
        write("values", Region.WORK): tile * 2,
    }
    found = {flow: bytes_ / matrix for flow, bytes_ in moved.items()}
    weights = _weight_beats(config) * BEAT_BYTES / matrix_cycles(config, config.max_sections)
    found |= {read(p, Region.MODEL): weights for p in WEIGHT_PORTS[: config.weight_ports]}
    attended = scans / max(matrix, attend_cycles(config, config.max_keys))
    found[read("keys", Region.CACHE)] = found[read("values", Region.CACHE)] = attended
    # The program lies beside IO.
    found[read("prog", Region.IO)] = 0.0
    return _limit(found)


def _vectors(config: AcceleratorConfig) -> int:
    """Weight vectors (one output, one group) of a block."""
    passes = 2 if config.quant_config.dual_format else 1
    return config.max_width // GROUP * config.max_width * (3 + 1 + 4 + 4 * passes)


def _weight_beats(config: AcceleratorConfig) -> float:
    """Beats of a block's weights on each weight port."""
    beats = block_beats(config.quant_config.code_bits, False) / config.weight_ports
    return _vectors(config) / WEIGHT_BLOCK * beats


def _limit(found: Mapping[Flow, float]) -> dict[Flow, float]:
    """Scale the flows of a port and direction so that they fit its width together."""
    totals: dict[tuple[str, bool], float] = {}
    for flow, rate in found.items():
        key = flow.port, flow.write
        totals[key] = totals.get(key, 0.0) + rate
    return {
        flow: rate * min(1.0, BEAT_BYTES / (totals[flow.port, flow.write] or 1.0))
        for flow, rate in found.items()
    }
