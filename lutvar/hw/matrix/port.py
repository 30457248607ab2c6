# SPDX-License-Identifier: Apache-2.0
"""A weight port of the array: beats in, weight vectors out, with queues before and behind."""

from typing import Any

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from lutvar.contract.accelerator import STRIPE, AcceleratorConfig
from lutvar.hw.axi.queue import WideQueue
from lutvar.hw.links import INDEX_BITS, weight_layout, weight_stream
from lutvar.hw.port_types import Stream
from lutvar.hw.units.memory import Fifo
from lutvar.hw.units.ram_style import RamStyle

from .unpack import WeightUnpack, vector_item_layout, work_layout

#: Instructions whose work is known ahead.
WORK_QUEUE = 4
#: Beats that wait before the unpacker: enough for the queue's own latency at full rate.
WEIGHT_QUEUE = 32
#: Vectors that wait behind it when there are several ports: a stripe. Ports bring a vector in less
#: than every cycle, and those whose turn it is not run ahead.
VECTOR_QUEUE = STRIPE


class WeightPort(wiring.Component):
    """`WeightUnpack` between two queues in block RAM; only one when it is the only port.

    Latency from a beat to its vector 4 cycles, 7 with several ports. Throughput as the unpacker's;
    up to `VECTOR_QUEUE` vectors come in as many cycles when they had time to wait.
    """

    work: Stream  #: in: the port's part of each instruction; `WORK_QUEUE` are taken ahead
    weights: Stream  #: in: beats; up to `WEIGHT_QUEUE` and two more are taken ahead of their work
    vectors: Stream  #: out: weight vectors in order; payload and valid from registers
    soon: Signal  #: out: `vectors.valid` in the next cycle; 0 if it is the only port
    surplus: Signal  #: out: see `WeightUnpack`
    missing: Signal  #: out: see `WeightUnpack`
    index: Signal  #: out: see `WeightUnpack`

    def __init__(self, config: AcceleratorConfig) -> None:
        self.config = config
        super().__init__(
            {
                "work": In(stream.Signature(work_layout())),
                "weights": In(weight_stream()),
                "vectors": Out(stream.Signature(vector_item_layout(config))),
                "soon": Out(1),
                "surplus": Out(1),
                "missing": Out(1),
                "index": Out(INDEX_BITS),
            }
        )

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.works = works = Fifo(work_layout(), WORK_QUEUE)
        m.submodules.unpack = unpack = WeightUnpack(self.config)
        # Between FETCH and the unpacker's ready, which comes late: block RAM, for LUTs are the
        # scarcer thing (a skid buffer takes one for each bit).
        m.submodules.beats = beats = WideQueue(
            weight_layout().size, WEIGHT_QUEUE, style=RamStyle.BLOCK
        )
        wiring.connect(m, wiring.flipped(self.work), works.i)
        wiring.connect(m, works.o, unpack.work)
        _through(m, self.weights, beats)
        _connect(m, beats.o, unpack.beats)
        m.d.comb += [
            self.surplus.eq(unpack.surplus),
            self.missing.eq(unpack.missing),
            self.index.eq(unpack.index),
        ]
        if self.config.weight_ports == 1:
            _connect(m, unpack.vectors, self.vectors)
            return m
        width = vector_item_layout(self.config).size
        m.submodules.vectors = vectors = WideQueue(width, VECTOR_QUEUE, style=RamStyle.BLOCK)
        _through(m, unpack.vectors, vectors)
        _connect(m, vectors.o, self.vectors)
        m.d.comb += self.soon.eq(vectors.soon)
        return m


def _through(m: Module, source: Any, queue: WideQueue) -> None:
    m.d.comb += [
        source.ready.eq(queue.room),
        queue.push.eq(source.valid & queue.room),
        queue.data.eq(Value.cast(source.payload)),
    ]


def _connect(m: Module, source: Any, sink: Any) -> None:
    """Streams whose payloads have the same bits."""
    m.d.comb += [
        Value.cast(sink.payload).eq(Value.cast(source.payload)),
        sink.valid.eq(source.valid),
        source.ready.eq(sink.ready),
    ]
