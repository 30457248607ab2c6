# SPDX-License-Identifier: Apache-2.0
"""From a model's name to an open accelerator: quantize, pack, export, build, open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from lutvar.contract.accelerator import AcceleratorConfig
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.pass_file import default_folder
from lutvar.host.device import Device
from lutvar.host.transformer import DeviceTransformer, PassReport
from lutvar.hw.accelerator.export import Manifest, export
from lutvar.quant.golden.decoder import QuantizedDecoder
from lutvar.quant.ptq.transformer import QuantizedTransformer
from lutvar.quant.runnable import Quantized as Quantized
from lutvar.quant.runnable import quantize as quantize
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.memory import MEMORY_MIB
from lutvar.sim.transport import SimulatedMemory
from lutvar.times import Times

Say = Callable[[str], None]
#: Memory of the simulated device.
MEMORY_BYTES = MEMORY_MIB << 20


def silent(_line: str) -> None:
    """Say nothing."""


class Stages(Times):
    """Wall time of the parts of a run, by name, each told when it begins and when it has ended."""

    def __init__(self, say: Say = silent) -> None:
        super().__init__()
        self.say = say

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        before = self.seconds.get(name, 0.0)
        self.say(f"{name} ...")
        with super().__call__(name):
            yield
        self.say(f"{name}: {self.seconds[name] - before:.1f} s")


class Runnable(Protocol):
    """What a session needs of a model: `Quantized`, or a transformer without a tokenizer."""

    @property
    def transformer(self) -> QuantizedTransformer:
        """The quantized transformer."""

    @property
    def config(self) -> AcceleratorConfig:
        """The accelerator that it was quantized for."""


class Session:
    """A simulated accelerator with a model on it.

    Args:
        quantized: what to run; a packed model is run as it is.
        out: folder for Verilog and manifest.
        build_dir: cache of simulation models.
        slots: images in progress at once.
        timing: of the simulated memory.
        manifest: of the same configuration, exported before; default: export it to `out`.
        memory: bytes of the simulated memory.
        watch: called with the device's cycles now and then while a program runs.
        on_pass: called after each pass.
        stages: collects times.
        tile_rows, sections: of every pass, instead of the compiler's choice; see `Compiler`.
        decoder: of the tokenizer, to be packed with the model.
        decode: leave room for the maps of a packed decoder.
    """

    def __init__(
        self,
        quantized: Runnable | PackedTransformer,
        out: Path,
        *,
        build_dir: Path | str = "build/sim",
        slots: int = 1,
        timing: MemoryTiming | None = None,
        manifest: Manifest | None = None,
        memory: int = MEMORY_BYTES,
        watch: Callable[[int], None] | None = None,
        on_pass: Callable[[PassReport], None] | None = None,
        stages: Stages | None = None,
        tile_rows: int | None = None,
        sections: int | None = None,
        decoder: QuantizedDecoder | None = None,
        decode: bool = True,
    ) -> None:
        stages = stages or Stages()
        if isinstance(quantized, PackedTransformer):
            self.packed, config = quantized, quantized.layout.config
        else:
            config = quantized.config
            with stages("pack the model"):
                self.packed = pack_transformer(quantized.transformer, config, decoder=decoder)
        if manifest is None:
            with stages("export Verilog"):
                manifest = export(config, out)
        self.manifest = manifest
        self.slots, self.on_pass, self._decode = slots, on_pass, decode
        with stages("build the simulation"):
            self.simulation = VerilatedDevice.from_verilog(
                self.manifest.verilog, memory, build_dir=build_dir, timing=timing,
                progress=stages.say,
            )  # fmt: skip
        with ExitStack() as opened:
            opened.callback(self.simulation.close)
            self.device = Device(SimulatedMemory(self.simulation, watch), config)
            self.device.open()
            self.transformer = self._transformer(tile_rows, sections)
            opened.pop_all()

    def _transformer(self, tile_rows: int | None, sections: int | None) -> DeviceTransformer:
        return DeviceTransformer(
            self.device, self.packed, self.slots, on_pass=self.on_pass, cache=default_folder(),
            tile_rows=tile_rows, sections=sections, decode=self._decode,
        )  # fmt: skip

    def set_tiles(self, tile_rows: int | None, sections: int | None) -> None:
        """Compile passes from now on with these tiles; None: the compiler's choice."""
        self.transformer = self._transformer(tile_rows, sections)

    def close(self) -> None:
        """End the simulation."""
        self.simulation.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
