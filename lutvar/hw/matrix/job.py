# SPDX-License-Identifier: Apache-2.0
"""What a job is inside the engine: argument layouts, and the stream of beats."""

from amaranth.hdl import signed, unsigned
from amaranth.lib import data
from amaranth.utils import bits_for

from lutvar.contract.config import HardwareConfig

TILES_BITS = 32  #: the whole register: tiles cost one counter, not an address


def job_layout(hardware: HardwareConfig) -> data.StructLayout:
    """Arguments of one job, validated by whoever queues it.

    ``rows`` counts row vectors (token rows / T), 1 and more; ``groups`` is 1 to ``max_groups``;
    ``rows * groups`` is at most ``buffer_vectors``; ``tiles`` is 1 and more unless ``dump``;
    ``scale_exp`` is -32 to 31; ``dual`` needs a dual format in the preset.
    """
    return data.StructLayout(
        {
            "rows": unsigned(bits_for(hardware.buffer_vectors)),
            "groups": unsigned(bits_for(hardware.max_groups)),
            "tiles": unsigned(TILES_BITS),
            "rotate": 1,
            "dual": 1,
            "dump": 1,
            "scale_exp": signed(8),
        }
    )


def bank_layout(hardware: HardwareConfig) -> data.StructLayout:
    """What travels with a full activation bank: the job, and ``words``, the words that it fills."""
    return data.StructLayout(
        {"job": job_layout(hardware), "words": unsigned(bits_for(hardware.buffer_vectors))}
    )


def beat_layout(stream_bytes: int) -> data.StructLayout:
    """One beat of an AXI4-Stream without side channels other than TLAST."""
    return data.StructLayout({"data": unsigned(stream_bytes * 8), "last": 1})
