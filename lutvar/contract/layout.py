# SPDX-License-Identifier: Apache-2.0
"""What each stream carries, beat by beat: the geometry of gateware counters and host packers.

All words are little-endian; element 0 is in the least significant bits. ``S`` is the stream width
in bytes, ``T`` the token rows, ``N`` the outputs, ``b`` the code bits. Every section starts on a
beat and is padded with zeros to a whole number of beats.

``s_axis_act``  for each row, for each group: 128 FP16. TLAST on the last beat of the job.
``s_axis_wgt``  for each tile of N outputs: N float32 biases; then for each group: N FP16 scales,
                then the codes ``[N][128]`` packed b bits each. TLAST on the last beat of the job.
                Nothing when dumping.
``m_axis_out``  multiply: for each tile, for each row vector: float32 ``[T][N]``. Dump: for each
                row vector, for each group: ``[T]`` pairs (scale, negative scale) of FP16, then the
                codes ``[T][128]``. TLAST on the last beat of the job.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import GROUP, HardwareConfig, QuantConfig


@dataclass(frozen=True)
class StreamLayout:
    """Beat counts for one hardware configuration."""

    stream_bytes: int
    token_rows: int
    outputs: int
    code_bits: int

    @classmethod
    def of(cls, hardware: HardwareConfig, quant: QuantConfig) -> StreamLayout:
        return cls(hardware.stream_bytes, hardware.token_rows, hardware.outputs, quant.code_bits)

    def beats(self, nbytes: int) -> int:
        """Beats that hold a section of ``nbytes`` bytes."""
        return -(-nbytes // self.stream_bytes)

    @property
    def act_group_beats(self) -> int:
        """Beats of one row's group of activations (FP16)."""
        return self.beats(GROUP * 2)

    @property
    def bias_beats(self) -> int:
        return self.beats(self.outputs * 4)

    @property
    def scale_beats(self) -> int:
        return self.beats(self.outputs * 2)

    @property
    def weight_code_beats(self) -> int:
        """Beats of the codes of one group of a tile."""
        return self.beats(self.outputs * GROUP * self.code_bits // 8)

    @property
    def result_beats(self) -> int:
        """Beats of one row vector's results for one tile."""
        return self.beats(self.token_rows * self.outputs * 4)

    @property
    def dump_scale_beats(self) -> int:
        return self.beats(self.token_rows * 4)

    @property
    def dump_code_beats(self) -> int:
        return self.beats(self.token_rows * GROUP * self.code_bits // 8)

    def act_beats(self, rows: int, groups: int) -> int:
        return rows * groups * self.act_group_beats

    def tile_beats(self, groups: int) -> int:
        return self.bias_beats + groups * (self.scale_beats + self.weight_code_beats)

    def wgt_beats(self, groups: int, tiles: int) -> int:
        return tiles * self.tile_beats(groups)

    def out_beats(self, rows: int, groups: int, tiles: int, *, dump: bool = False) -> int:
        vectors = rows // self.token_rows
        if dump:
            return vectors * groups * (self.dump_scale_beats + self.dump_code_beats)
        return vectors * tiles * self.result_beats
