# SPDX-License-Identifier: Apache-2.0
"""The part of a demo that the simulated accelerator does, compared while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lutvar.contract.passes import ImageStep, Transformer
from lutvar.files import write_file
from lutvar.host.device_decoder import DecodeReport
from lutvar.host.errors import HostError
from lutvar.host.transformer import PassReport
from lutvar.progress import as_callback, progress_bar
from lutvar.quant.golden.decoder import GoldenDecoder, QuantizedDecoder
from lutvar.quant.golden.transformer import GoldenTransformer
from lutvar.quant.var import GenerationResult
from lutvar.quant.var.passes import generate_passes
from lutvar.sim.device import MemoryTiming

from .comparing import ComparingTransformer, Comparison
from .comparing_decoder import ComparingDecoder, FirstImages
from .demo_edits import DemoEdits
from .locate import Located, locate
from .locate_decoder import locate_decoder
from .pictures import StepTrace
from .session import Quantized, Session, Stages

Decode = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """What is drawn, by whichever transformer.

    Attributes:
        quantized: the model.
        labels: class of each image, -1 for the null class.
        seeds: of each image.
        slots, stagger: images at a time, and passes between their starts.
        edited: the images that are edited; None: all is drawn.
        smooth: smooth sampling.
        stages: takes the times.
    """

    quantized: Quantized
    labels: list[int]
    seeds: list[int]
    slots: int
    stagger: int
    edited: DemoEdits | None
    smooth: bool
    stages: Stages

    def generate(
        self, transformer: Transformer, name: str, pixels: Decode | None = None
    ) -> GenerationResult:
        """Draw all images with a transformer.

        Args:
            name: of it, for the stage and its bar.
            pixels: decoder in place of the tokenizer's own.
        """
        loaded, info = self.quantized.loaded, self.quantized.loaded.info
        with (
            self.stages(f"generate: {name}"),
            progress_bar(name, unit="scale") as bar,
        ):
            return generate_passes(
                loaded.var, loaded.vqvae, transformer, self.labels, self.seeds, info.cfg,
                info.top_k, info.top_p, slots=self.slots, stagger=self.stagger,
                progress=as_callback(bar), edits=None if self.edited is None else self.edited.edits,
                smooth=self.smooth, decode=pixels,
            )  # fmt: skip


@dataclass(frozen=True)
class DeviceRun:
    """What the device drew, and everything noted on the way.

    Attributes:
        images: the images.
        comparison: of all that the device wrote.
        passes, decoded: reports of the driver.
        traces: which unit was busy when, for each pass.
        timing: of the simulated memory.
        violations: of the rules of AXI.
        hashes: of what ran, by name.
    """

    images: GenerationResult
    comparison: Comparison
    passes: list[PassReport]
    decoded: list[DecodeReport]
    traces: list[StepTrace]
    timing: MemoryTiming
    violations: int
    hashes: dict[str, str]


def run_on_device(
    task: Task,
    out: Path,
    coded: QuantizedDecoder | None,
    golden_decoder: GoldenDecoder | None,
    count: int,
    divergence: Path,
) -> DeviceRun:
    """Draw on the simulated accelerator, and compare every pass and the pixels of `count` images.

    Args:
        out: folder of the Verilog.
        coded: decoder that is packed with the model; None: this host decodes.
        golden_decoder: makes the pixels that the device's are compared with.
        divergence: file that says which instruction differed first; removed if none did.
    """
    quantized, say, comparison = task.quantized, task.stages.say, Comparison()
    reports: list[PassReport] = []
    decoded: list[DecodeReport] = []
    traces: list[StepTrace] = []
    timing = MemoryTiming()
    with Session(
        quantized, out, slots=task.slots, timing=timing, stages=task.stages, decoder=coded
    ) as session:

        def finished(report: PassReport) -> None:
            changes = session.simulation.take_trace()
            # Outside a program no unit is busy, so the first and last changes are its ends.
            start, end = (int(changes[i, 0]) for i in (0, -1)) if len(changes) > 1 else (0, 1)
            active = changes[changes[:, 1] != 0]
            start = int(active[0, 0]) if len(active) else start
            traces.append(
                StepTrace(pass_name(quantized, report), start, max(end, start + 1), changes)
            )
            reports.append(report)
            session.simulation.start_trace()

        session.transformer.on_pass = finished
        session.simulation.start_trace()
        device = Locating(
            ComparingTransformer(
                GoldenTransformer(quantized.transformer), session.transformer, comparison
            ),
            divergence,
            say,
            session.simulation.start_trace,
        )
        pixels = None
        if golden_decoder is not None and session.transformer.decoder is not None:
            session.transformer.decoder.on_image = decoded.append
            comparing = ComparingDecoder(
                golden_decoder, session.transformer.decoder, comparison, device.decoded
            )
            pixels = FirstImages(comparing, count)
        images = task.generate(device, "simulated accelerator", pixels)
        violations = session.simulation.violations
        hashes = {
            "configuration": str(session.manifest.data["config_hash"]),
            "Verilog SHA-256": session.manifest.sha256,
            "packed model SHA-256": session.packed.digest(),
        }
    return DeviceRun(images, comparison, reports, decoded, traces, timing, violations, hashes)


class Locating:
    """Runs passes; after the first difference, finds the instruction that did it."""

    def __init__(
        self,
        comparing: ComparingTransformer,
        file: Path,
        say: Callable[[str], None],
        afterwards: Callable[[], None],
    ) -> None:
        self._comparing, self._file, self._say = comparing, file, say
        self._afterwards = afterwards
        file.unlink(missing_ok=True)

    def run(self, steps: Sequence[ImageStep]) -> list[NDArray[np.float32]]:
        """Logits of a pass; see `Transformer`."""
        comparison = self._comparing.comparison
        equal_before = not comparison.mismatches
        logits = self._comparing.run(steps)
        if equal_before and comparison.mismatches:
            self._tell("pass", lambda: locate(self._comparing.device, steps))
        return logits

    def decoded(self, latent_ZHW: NDArray[np.float32]) -> None:
        """The same for the first image whose maps or pixels differ."""
        decoder = self._comparing.device.decoder
        assert decoder is not None
        self._tell("decoding of the image", lambda: locate_decoder(decoder, latent_ZHW))

    def _tell(self, what: str, search: Callable[[], Located]) -> None:
        text = f"first difference in {self._comparing.comparison.first[0]}"
        self._say(f"{text}; repeating the {what} to find its cause")
        try:
            text += f"\n{search()}"
        except HostError as error:
            text += f"\n{error}"
        self._say(text)
        write_file(self._file, text + "\n")
        self._afterwards()


def pass_name(quantized: Quantized, report: PassReport) -> str:
    """Scales that a pass computed, for people."""
    shape = quantized.transformer.shape
    starts = [sum(shape.scale_tokens[:k]) for k in range(len(shape.scale_tokens))]
    scales = sorted({starts.index(s.position) + 1 for s in report.steps if s.position in starts})
    images = len(report.steps)
    which = f"scale {scales[0]}" if len(scales) == 1 else f"scales {scales[0]} to {scales[-1]}"
    return f"{which}, {images} image{'s' if images > 1 else ''}"
