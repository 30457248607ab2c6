# SPDX-License-Identifier: Apache-2.0
"""What the host does for one image of d30 at 256 px, on one core, with a device that takes no time.

Weights are random: none of these times depends on them. Embeddings, sampling and feature map have
the sizes of the model, and passes are those of its programs; the blocks are not there.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lutvar.contract.accelerator import load_accelerator
from lutvar.contract.isa import UNITS, Region
from lutvar.contract.shape import TransformerShape
from lutvar.host.compile.compiler import Compiler
from lutvar.host.compile.model_layout import ModelLayout
from lutvar.host.compile.packed import PackedTransformer
from lutvar.host.compile.steps import StepShape
from lutvar.host.compile.store import PassStore
from lutvar.host.device import Device
from lutvar.host.device_status import DeviceCounters
from lutvar.host.generate import HostModel, generate
from lutvar.host.transformer import DeviceTransformer
from lutvar.host.turns import Turns
from lutvar.sim.model.plans import plan
from lutvar.sim.run.host_model import host_model
from lutvar.times import Times

from .host_parts import CONFIG, MODEL, TOP_K, TOP_P, decoder_share_speed, sampling_speed
from .report import Measurement

if TYPE_CHECKING:
    from lutvar.quant.var import Var, Vqvae

COMPILE_SECONDS, HOST_SECONDS = 1.5, 0.15
CLASSES, CHANNELS = 1000, 32
CFG = 1.5
RUNS = 5  #: the fastest counts: other programs of the machine only add


class InstantDevice:
    """What `DeviceTransformer` needs of a device, with programs that take no time.

    Embeddings and programs are copied as a driver copies them; logits are random.
    """

    def __init__(self) -> None:
        self.config = load_accelerator(CONFIG)
        self.turns = Turns()

    def place(self, _model: object, _work: int, io: int, _cache: int, **_more: object) -> None:
        """Fill IO with random logits."""
        rng = np.random.default_rng(1)
        self.io = (rng.standard_normal(io // 4, np.float32) * 2).view(np.uint8)
        self.inputs = np.zeros(io, np.uint8)  # a device's logits would overwrite them
        self.program = np.zeros(1 << 24, np.uint8)

    def write(self, _region: Region, offset: int, data: NDArray[np.uint8]) -> None:
        """Copy embeddings."""
        self.inputs[offset : offset + len(data)] = data

    def read(self, _region: Region, offset: int, count: int) -> NDArray[np.uint8]:
        """Copy logits."""
        return self.io[offset : offset + count].copy()

    def run(self, program: bytes, _limit: int, _what: str) -> DeviceCounters:
        """Copy a program."""
        self.program[: len(program)] = np.frombuffer(program, np.uint8)
        none = (0,) * len(UNITS)
        return DeviceCounters(1, none, none, none, 0, 0, {}, {})


def host_speed() -> list[Measurement]:
    """Compiler, stored passes, and one image with everything but device and decoder; decoder."""
    shape = TransformerShape.official(MODEL)
    layout = ModelLayout.of(shape, load_accelerator(CONFIG), range(CLASSES + 1))
    compiler = Compiler(layout, null_label=CLASSES)
    steps = [p.steps for p in plan(shape, "single", 1, True)]
    with tempfile.TemporaryDirectory() as folder:
        compiling, store = min(
            (_compile(compiler, steps, Path(folder) / str(i)) for i in range(RUNS)),
            key=lambda pair: pair[0],
        )
        again = PassStore(compiler, store.folder)
        started = time.process_time()
        for one in steps:
            again.get(one)
        loading = time.process_time() - started
    var, vqvae = _models(shape)
    model = host_model(var, vqvae)
    parts = min(
        (_image(model, layout, label) for label in range(RUNS)), key=lambda p: sum(p.values())
    )
    whole = sum(parts.values())
    return [
        Measurement(
            f"compiler, all passes of an image of {MODEL}", compiling, "s of processor", "timed",
            COMPILE_SECONDS, detail={"passes": len(steps)},
        ),
        Measurement(
            f"compiled passes of {MODEL} from their files", 1e3 * loading, "ms of processor",
            "timed",
        ),
        Measurement(
            f"host without decoder, an image of {MODEL} at 256 px", whole, "s of processor",
            "timed", HOST_SECONDS, detail={f"{name} ms": 1e3 * t for name, t in parts.items()},
        ),
        *sampling_speed(),
        *decoder_share_speed(),
        _torch_decoder(vqvae),
        _onnx_decoder(vqvae),
    ]  # fmt: skip


def _torch_decoder(vqvae: Vqvae) -> Measurement:
    """Seconds of processor for one image with PyTorch on one thread."""
    import torch

    threads, side = torch.get_num_threads(), vqvae.config.patch_nums[-1]
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            started = time.process_time()
            vqvae.to_image(torch.ones(1, CHANNELS, side, side))
            seconds = time.process_time() - started
    finally:
        torch.set_num_threads(threads)
    return Measurement("decoder, an image of 256 px, PyTorch", seconds, "s of processor", "timed")


def _onnx_decoder(vqvae: Vqvae) -> Measurement:
    """Seconds of processor for one image with ONNX Runtime on one thread."""
    name, seconds, detail = "decoder, an image of 256 px, ONNX Runtime", None, {}
    try:
        from lutvar.host.decoder import OnnxDecoder
        from lutvar.sim.run.decoder_file import write_decoder

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "decoder.onnx"
            write_decoder(vqvae, path)
            decode = OnnxDecoder(path, threads=1)
            side = vqvae.config.patch_nums[-1]
            latent = np.ones((1, CHANNELS, side, side), np.float32)
            decode(latent)
            started = time.process_time()
            decode(latent)
            seconds = time.process_time() - started
    except (ImportError, RuntimeError) as error:  # PyTorch's word for a missing onnx
        detail = {"reason": str(error).splitlines()[0]}
    return Measurement(name, seconds, "s of processor", "timed", detail=detail)


def _compile(
    compiler: Compiler, steps: Sequence[Sequence[StepShape]], folder: Path
) -> tuple[float, PassStore]:
    """Seconds of processor for all passes from nothing, encoded and written."""
    store = PassStore(compiler, folder)
    started = time.process_time()
    for one in steps:
        store.get(one).encode()
    return time.process_time() - started, store


def _models(shape: TransformerShape) -> tuple[Var, Vqvae]:
    """Embeddings and tokenizer of the released sizes; one block, which does not run."""
    from lutvar.quant.var import Var, VarConfig, Vqvae, VqvaeConfig

    config = VarConfig(
        depth=1, width=shape.width, heads=shape.heads, patch_nums=shape.patch_nums,
        num_classes=CLASSES, vocab=shape.vocab, z_channels=CHANNELS,
    )  # fmt: skip
    tokenizer = VqvaeConfig(
        vocab=shape.vocab, z_channels=CHANNELS, ch=160, patch_nums=shape.patch_nums
    )
    return Var(config).eval(), Vqvae(tokenizer).eval()


def _image(model: HostModel, layout: ModelLayout, label: int) -> dict[str, float]:
    """Seconds of processor of one image by part, up to the decoder's input.

    A first image of another class brings the passes.
    """
    packed = PackedTransformer(
        layout, np.zeros(layout.size, np.uint8), (0,) * len(layout.layers), 1e-6, CLASSES, {}
    )
    vars(packed)["_sha256"] = "0" * 64  # of zeros nobody needs one
    device: Any = InstantDevice()
    transformer = DeviceTransformer(cast(Device, device), packed, 1)
    for one in (label + 1, label):
        # Of this thread alone: random bits are made in another one while the device computes.
        times = Times(time.thread_time)
        generate(model, transformer, [one], [label], CFG, TOP_K, TOP_P, times=times)
    seconds = times.seconds
    seconds["driver and copies"] = seconds.pop("transformer")
    return seconds
