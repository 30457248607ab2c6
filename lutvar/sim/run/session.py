# SPDX-License-Identifier: Apache-2.0
"""From a model's name to an open accelerator: quantize, pack, export, build, open."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol

from typing_extensions import Self

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.host.compile.pack import pack_transformer
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.device import Device
from lutvar.host.transformer import DeviceTransformer, PassReport
from lutvar.hw.accelerator.export import export
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer
from lutvar.sim.device import MemoryTiming, VerilatedDevice
from lutvar.sim.transport import SimulatedMemory

Say = Callable[[str], None]
#: Memory of the simulated device; a page that nobody touches costs nothing.
MEMORY_BYTES = 1 << 28


def silent(_line: str) -> None:
    """Say nothing."""


@dataclass
class Stages:
    """Wall time of the parts of a run, by name."""

    say: Say = silent
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        self.say(f"{name} ...")
        yield
        self.seconds[name] = time.monotonic() - started
        self.say(f"{name}: {self.seconds[name]:.1f} s")


@dataclass(frozen=True)
class Quantized:
    """A model in every form that a run needs.

    Attributes:
        loaded: the float model with its tokenizer.
        transformer: the same at code level.
        config: the accelerator.
    """

    loaded: LoadedModel
    transformer: QuantizedTransformer
    config: AcceleratorConfig


def quantize(model: str, config: AcceleratorConfig | str, recipe: Path | None = None) -> Quantized:
    """Load a model and quantize it as an accelerator runs it.

    Args:
        model: shipped model or model folder.
        config: accelerator, preset or file.
        recipe: what `lutvar quantize --recipe` wrote for this model; default: round to nearest in
            the accelerator's formats.

    Raises:
        QuantizedFileError: the file is not one of this model's.
        QuantizationError: the recipe needs other hardware.
        ValueError: the accelerator has other formats than the recipe.
    """
    config = load_accelerator(config) if isinstance(config, str) else config
    loaded = load_model(model)
    if recipe is None:
        made = quantize_transformer(
            loaded.var, config.quant_config, config.kv_format, progress=False
        )
        return Quantized(loaded, made, config)
    from lutvar.quant.methods.hardware.export import export
    from lutvar.quant.methods.recipes.quantized_var import QuantizedVar

    made = export(QuantizedVar.load(recipe, loaded.var), loaded.var, config.kv_format)
    if made.config.model_dump(exclude={"name"}) != config.quant_config.model_dump(exclude={"name"}):
        raise ValueError(
            f"{recipe}: the recipe needs the formats of preset {made.config.name}, {config.name} "
            f"has those of {config.quant}; choose an accelerator with that preset"
        )
    return Quantized(loaded, made, config)


class Runnable(Protocol):
    """What a session needs of a model: `Quantized`, or a transformer without a tokenizer."""

    @property
    def transformer(self) -> QuantizedTransformer: ...

    @property
    def config(self) -> AcceleratorConfig: ...


class Session:
    """A simulated accelerator with a model on it.

    Args:
        quantized: what to run.
        out: folder for Verilog and manifest.
        build_dir: cache of simulation models.
        slots: images in progress at once.
        timing: of the simulated memory.
        trace: record the activity of the units.
        on_pass: called after each pass.
        stages: collects times.
    """

    def __init__(
        self,
        quantized: Runnable,
        out: Path,
        *,
        build_dir: Path | str = "build/sim",
        slots: int = 1,
        timing: MemoryTiming | None = None,
        on_pass: Callable[[PassReport], None] | None = None,
        stages: Stages | None = None,
        watchdog: int = 200_000,
        check: bool = False,
    ) -> None:
        stages = stages or Stages()
        config = quantized.config
        with stages("pack the model"):
            self.packed: PackedTransformer = pack_transformer(quantized.transformer, config)
        with stages("export Verilog"):
            self.manifest = export(config, out)
        with stages("build the simulation"):
            self.simulation = VerilatedDevice.from_verilog(
                self.manifest.verilog, MEMORY_BYTES, build_dir=build_dir, timing=timing,
                progress=stages.say,
            )  # fmt: skip
        self.device = Device(SimulatedMemory(self.simulation), config, watchdog=watchdog)
        self.device.open()
        self.transformer = DeviceTransformer(
            self.device, self.packed, slots, on_pass=on_pass, check=check
        )

    def close(self) -> None:
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
