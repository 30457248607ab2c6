# SPDX-License-Identifier: Apache-2.0
"""What computes the logits of a command that draws: its options, its session, its report.

`lutvar generate` and `lutvar edit` share all of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from lutvar.text import class_name

from .common import (
    accelerator_option,
    model_option,
    note,
    progress,
    recipe_option,
    refuse_with,
    require_simulator,
)
from .loaded import (
    Loaded,
    golden_decoder,
    packed_file,
    tensor_decoder,
    with_device_decoder,
    with_onnx_decoder,
)
from .row import Row

if TYPE_CHECKING:
    from torch import Tensor

    from lutvar.contract.editing import Edit
    from lutvar.contract.labels import Label
    from lutvar.contract.passes import Transformer
    from lutvar.host.device_decoder import DecodeReport
    from lutvar.host.transformer import DeviceTransformer, PassReport
    from lutvar.quant.models import ModelInfo
    from lutvar.quant.runnable import Quantized
    from lutvar.quant.var import GenerationResult

    from .sampling import Sampling

_F = TypeVar("_F", bound=Callable[..., Any])

#: As values of --decoder.
GOLDEN_DECODER, DEVICE_DECODER, HOST_DECODER = map(Path, ("golden", "device", "host"))
_NAMED = GOLDEN_DECODER, DEVICE_DECODER, HOST_DECODER
_FILE = click.Path(dir_okay=False, path_type=Path)
_OPTIONS = (
    model_option,
    click.option(
        "--backend",
        type=click.Choice(["float", "golden", "sim"]),
        default="golden",
        help="float: unquantized; golden: quantized, code level; sim: the Verilog, simulated.",
    ),
    click.option(
        "--device",
        metavar="URL",
        help="Instead of --backend: an accelerator behind the driver, such as uio:lutvar on a "
        "board, sim:small-fp4 (the Verilog, simulated) or golden:small-fp4 (without gateware).",
    ),
    accelerator_option,
    recipe_option,
    click.option(
        "--decoder",
        type=_FILE,
        metavar="FILE|device|golden|host",
        help="device: on the accelerator; golden: at code level on this host, in the "
        "accelerator's formats; host: PyTorch; a file of `lutvar pack --decoder`: ONNX Runtime. "
        "Default: device where the logits come from one that has what it takes, else host.",
    ),
    click.option("--slots", type=click.IntRange(1), help="Images at a time. Default: all."),
    click.option(
        "--stagger",
        type=click.IntRange(0),
        default=0,
        help="Passes between the starts of two images.",
    ),
)


@dataclass(frozen=True)
class Backend:
    """What the options chose. Attributes are the options of `backend_options`.

    Attributes:
        packed: the device's memory as a file of `lutvar pack`.
    """

    model: str
    backend: str
    device: str | None
    config: str
    recipe: Path | str | None
    packed: Path | None
    decoder: Path | None
    slots: int | None
    stagger: int

    @property
    def name(self) -> str:
        """For people: "float", "golden", "sim", or the device's URL."""
        return self.backend if self.device is None else self.device

    @property
    def what(self) -> str:
        """Which of the two options chose it."""
        return "backend" if self.device is None else "device"

    @property
    def on_device(self) -> bool:
        """The logits come from a device, simulated or not."""
        return self.device is not None or self.backend == "sim"

    def useful_slots(self, images: int, scales: int, groups: int = 1) -> int:
        """Images in progress at once: as many as --slots says, and no more than are of use.

        Each takes its place in the device's memory. With a stagger, an image of a group overlaps
        with at most so many others: it is done before the next one starts.
        """
        useful = groups * -(-scales // self.stagger) if self.stagger else images
        return min(self.slots or images, images, useful)

    def check(self, packed_option: str, backend_chosen: bool = True) -> None:
        """Refuse what does not go together, before anything is loaded.

        Args:
            packed_option: the command's name for `packed`.
            backend_chosen: `packed` needs a backend that runs it; else the caller looks.

        Raises:
            UsageError: options that exclude each other.
            ToolError: a simulator is needed and missing.
        """
        if self.device is not None:
            refuse_with("--device", backend="--backend")
            from lutvar.host.open import parse

            if parse(self.device).scheme == "sim":  # first: mistakes must not wait for torch
                require_simulator()
        wrong = backend_chosen and self.packed is not None
        if wrong and (not self.on_device or self.recipe is not None):
            raise click.UsageError(
                f"{packed_option} goes with --backend sim or --device, without --quantized"
            )
        if self.decoder == DEVICE_DECODER and not self.on_device:
            raise click.UsageError(
                f"--decoder {DEVICE_DECODER} goes with --backend sim or --device; without, "
                f"--decoder {GOLDEN_DECODER} makes the same pixels"
            )
        if self.device is None and self.backend == "float":
            refuse_with("--backend float (unquantized)", recipe="--quantized", config="--config")
            if self.decoder == GOLDEN_DECODER:
                raise click.UsageError(
                    "--backend float is unquantized; --decoder golden goes with the other backends"
                )
        elif self.device is None and self.backend == "sim":
            require_simulator()

    def load(self) -> Loaded:
        """The float model, which embeds and decodes, and what the backend computes with."""
        file = None if self.decoder in _NAMED else self.decoder
        if file is not None and not file.is_file():
            raise click.UsageError(
                f"--decoder {file} is neither a file nor {', '.join(map(str, _NAMED))}; "
                "`lutvar pack --decoder` makes such a file"
            )
        from lutvar.host.decoder import OnnxDecoder

        decode = None if file is None else OnnxDecoder(file)  # first: before all that takes long
        if self.packed is not None:
            loaded = Loaded(*packed_file(self.packed, self.model, self.config), None)
        elif self.device is None and self.backend == "float":
            from lutvar.quant.models import load_model

            loaded = Loaded(load_model(self.model), None, None)
        else:
            from lutvar.quant.runnable import quantize

            with progress("quantize") as update:
                quantized = quantize(self.model, self.config, self.recipe, update)
            loaded = Loaded(quantized.loaded, quantized, None)
        if decode is not None:
            return with_onnx_decoder(loaded, decode)
        if self.decoder == GOLDEN_DECODER:
            return replace(loaded, decode=golden_decoder(loaded.model.vqvae, self.config))
        if self.on_device and self.decoder in (None, DEVICE_DECODER):
            return with_device_decoder(loaded, needed=self.decoder is not None)
        return loaded

    def draw(
        self,
        loaded: Loaded,
        sampling: Sampling,
        labels: Sequence[Label],
        seeds: Sequence[int],
        folder: Path,
        edits: Sequence[Edit] | None = None,
    ) -> Drawn:
        """Draw one image for each label and seed, with a bar on standard error.

        Args:
            loaded: from `load`.
            sampling: guidance and the rest.
            labels, seeds, edits: as for `generate_passes`.
            folder: where a simulation is built, and a failed device's state written.
        """
        from lutvar.quant.var.passes import generate_passes

        info, scales = loaded.model.info, len(loaded.model.var.config.patch_nums)
        count = self.useful_slots(len(labels), scales)
        reports: list[PassReport] = []
        decodes: list[DecodeReport] = []
        with (
            self._transformer(loaded, count, folder, reports) as transformer,
            progress(f"{self.name}: scales") as update,
        ):
            result = generate_passes(
                loaded.model.var, loaded.model.vqvae, transformer, labels, seeds,
                **sampling.settings(info), slots=count, stagger=self.stagger, progress=update,
                decode=_decode(loaded, transformer, decodes), edits=edits,
            )  # fmt: skip
        return Drawn(result, reports, decodes)

    @contextmanager
    def _transformer(
        self, loaded: Loaded, slots: int, folder: Path, reports: list[PassReport]
    ) -> Iterator[Transformer]:
        """What computes the logits."""
        if self.device is not None:
            from lutvar.host.session import Session as DeviceSession

            packed = loaded.packed()
            with progress("model to the device: MiB") as update:
                opened = DeviceSession.open(
                    self.device, packed, slots=slots, on_pass=reports.append, say=note,
                    progress=lambda done: update(done >> 20, len(packed.image) >> 20),
                    dump=folder / "device-dump.json", decode=loaded.on_device,
                )  # fmt: skip
            with opened:
                yield opened.transformer
        elif loaded.runs is None:
            from lutvar.quant.var.passes import FloatTransformer

            yield FloatTransformer(loaded.model.var)
        elif self.backend == "golden":
            from lutvar.quant.golden.transformer import GoldenTransformer

            yield GoldenTransformer(cast("Quantized", loaded.runs).transformer)
        else:
            from lutvar.sim.run.session import Session, Stages

            note(f"building the simulation of {loaded.accelerator} (kept for the next time)")
            with Session(
                loaded.runs, folder / "verilog", slots=slots, on_pass=reports.append,
                stages=Stages(note), decoder=loaded.decoder, decode=loaded.on_device,
            ) as session:  # fmt: skip
                yield session.transformer


def _decode(
    loaded: Loaded, transformer: Transformer, reports: list[DecodeReport]
) -> Callable[[Tensor], Tensor] | None:
    """What makes the images: the device, or what was loaded for it; None: the tokenizer."""
    if not loaded.on_device:
        return loaded.decode
    decoder = cast("DeviceTransformer", transformer).decoder
    assert decoder is not None
    decoder.on_image = reports.append
    return tensor_decoder(decoder)


@dataclass(frozen=True)
class Drawn:
    """Images and what the passes on a device took (nothing for a model on this host)."""

    result: GenerationResult
    reports: list[PassReport] = field(default_factory=list)
    decodes: list[DecodeReport] = field(default_factory=list)

    def row(self, info: ModelInfo) -> Row:
        """For the report of a command."""
        maps, null = self.result.tokens, info.var.num_classes
        labels = [-1 if label == null else label for label in self.result.labels]
        return Row(
            self.result.images_BCHW.numpy(),
            [[int(t) for scale in maps for t in scale[i]] for i in range(len(labels))],
            labels,
            [class_name(info.classes, label) for label in labels],
            self.result.seconds,
            self.reports,
            self.decodes,
        )


def backend_options(*packed_names: str) -> Callable[[_F], _F]:
    """The options of `Backend`, which the command gets as `how`.

    Args:
        packed_names: the option for a packed file, with its other names.
    """

    def wrap(function: _F) -> _F:
        @functools.wraps(function)
        def call(**values: Any) -> Any:
            chosen = {f.name: values.pop(f.name) for f in fields(Backend)}
            return function(how=Backend(**chosen), **values)

        packed = click.option(
            *packed_names,
            "packed",
            type=_FILE,
            metavar="FILE",
            help="With --backend sim or --device: the device's memory as `lutvar pack` wrote it "
            "for this model.",
        )
        result = cast(_F, call)
        for option in reversed((*_OPTIONS[:5], packed, *_OPTIONS[5:])):
            result = option(result)
        return result

    return wrap
