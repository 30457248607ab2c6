# SPDX-License-Identifier: Apache-2.0
"""A recipe over a model into a file: block by block, resumable, over several processes.

Beside the file stands a folder `FILE.parts` while the run lasts: the calibration samples and a
file for each finished block, and the state of tuning, which comes after the blocks. A run that was
broken off goes on from there; one with another recipe or model is refused. Blocks do not depend
on each other, so the result does not depend on the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections import ChainMap
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from torch import Tensor

from lutvar.files import json_text, make_folder, write_file
from lutvar.quant.var import Var, Vqvae
from lutvar.quant.var.sites import LinearSite
from lutvar.quant.var.tensors import tensor_bytes

from .attention.registry import attention_needs_data
from .calibration.prepare import prepare_calibration
from .calibration.relevance import Classify
from .calibration.samples import CalibrationSet
from .errors import QuantizedFileError
from .generator import Model
from .hardware.report import HardwareReport, hardware
from .layers.layer import Layer
from .recipes import files
from .recipes.build import check_model, measured_attention, quantize_blocks, tuned_model
from .recipes.quantized_var import QuantizedVar
from .recipes.recipe import Recipe

Progress = Callable[[int, int], None]
_POLL_SECONDS = 1.0


#: Changes with what the files of an unfinished run hold.
PARTS_FORMAT = "lutvar-parts-2"


class Parts:
    """The folder of a run.

    Args:
        path: the file that the run makes.
        recipe: its recipe.
        model: fingerprint of the model.

    Raises:
        QuantizedFileError: the folder belongs to another run.
    """

    def __init__(self, path: Path, recipe: Recipe, model: str) -> None:
        self.path, self.recipe, self.model = path, recipe, model
        self.folder = path.with_name(path.name + ".parts")
        if path.exists() and not path.is_file():  # a device or a pipe: nothing stands beside it
            name = hashlib.sha256(f"{model} {recipe.model_dump_json()}".encode()).hexdigest()[:16]
            self.folder = Path(tempfile.gettempdir()) / f"lutvar-{os.getuid()}-{name}.parts"

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Make the folder, or check that it belongs to this run; keep other processes out."""
        make_folder(self.folder)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise QuantizedFileError(
                f"{self.folder}: another process is at work here; let it finish, or write to "
                "another file"
            ) from None
        try:
            self._claim()
            yield
        finally:
            lock.release()

    def _claim(self) -> None:
        marker = self.folder / "run.json"
        mine = {
            "format": PARTS_FORMAT,
            "recipe": self.recipe.model_dump(mode="json"),
            "model": self.model,
        }
        if marker.exists():
            theirs = json.loads(marker.read_text(encoding="utf-8"))
            if theirs != mine:
                # Of several differences the recipe is what a user knows.
                what = next(
                    (key for key in ("recipe", "model") if theirs.get(key) != mine[key]), "version"
                )
                raise QuantizedFileError(
                    f"{self.folder}: an unfinished run of another {what} "
                    f"({theirs.get('recipe', {}).get('name')}); remove the folder, or write to "
                    "another file"
                )
        write_file(marker, json_text(mine))

    def block(self, index: int) -> Path:
        """File of a finished block."""
        return self.folder / f"block_{index:03}.safetensors"

    def finished(self, index: int) -> bool:
        """Whether a block is there and whole; a damaged one is removed."""
        if not self.block(index).exists():
            return False
        try:
            files.read(self.block(index), self.model)
        except QuantizedFileError:
            self.block(index).unlink()
            return False
        return True

    def keep(self, index: int, layers: list[Layer]) -> None:
        """Write a block."""
        packed, tensors = files.pack_layers(layers)
        files.write(self.block(index), self.recipe, self.model, packed, None, tensors)

    @cached_property
    def samples(self) -> CalibrationSet | None:
        """Calibration samples that were kept."""
        path = self.folder / "calibration.safetensors"
        if not path.exists():
            return None
        with safe_open(path, framework="pt") as file:
            notes = tuple(json.loads(file.metadata()["notes"]))
            cfg, top_k, top_p = json.loads(file.metadata()["sampling"])
            content = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return CalibrationSet(**content, notes=notes, cfg=cfg, top_k=top_k, top_p=top_p)

    def keep_samples(self, samples: CalibrationSet) -> None:
        """Write the calibration samples, so that a later run has the same ones."""
        tensors = {k: v for k, v in vars(samples).items() if isinstance(v, Tensor)}
        sampling = samples.cfg, samples.top_k, samples.top_p
        metadata = {"notes": json_text(samples.notes), "sampling": json_text(sampling)}
        write_file(self.folder / "calibration.safetensors", tensor_bytes(tensors, metadata))


def quantize_to_file(
    var: Model,
    vqvae: Vqvae | None,
    recipe: Recipe,
    path: Path,
    *,
    sampling: tuple[float, int, float] = (1.5, 0, 0.0),
    progress: Progress | None = None,
    model: str | Path | None = None,
    jobs: int = 1,
    classifier: Callable[[], Classify] | None = None,
) -> HardwareReport:
    """Run a recipe and write the result.

    Args:
        var: the float model.
        vqvae: VAR's tokenizer; only for recipes that need calibration samples.
        recipe: the recipe.
        path: file to write; its folder must exist.
        sampling: cfg, top_k, top_p of the calibration samples.
        progress: called as progress(done, of), in blocks and then steps of tuning.
        model: name or folder of the model, which further processes load.
        jobs: processes.
        classifier: gives the model's classifier, for recipes with `calibration.relevance`.

    Raises:
        QuantizedFileError: an unfinished run of another recipe or model is in the way, or another
            process works on the same file.
        CalibrationError, RecipeError: as `quantize_var`.
    """
    check_model(var, recipe)  # before minutes of calibration
    parts = Parts(path, recipe, files.fingerprint(var))
    with parts.opened():
        return _run(parts, var, vqvae, sampling, progress, model, jobs, classifier)


def _run(
    parts: Parts,
    var: Model,
    vqvae: Vqvae | None,
    sampling: tuple[float, int, float],
    progress: Progress | None,
    model: str | Path | None,
    jobs: int,
    classifier: Callable[[], Classify] | None,
) -> HardwareReport:
    recipe, count = parts.recipe, var.config.depth + 1
    done = {index for index in range(count) if parts.finished(index)}
    samples = parts.samples if recipe.needs_data else None
    if recipe.needs_data and samples is None and (vqvae is not None or not isinstance(var, Var)):
        samples = prepare_calibration(var, vqvae, recipe.calibration, *sampling, classifier)
        parts.keep_samples(samples)
    samples = samples if samples is None else replace(samples, vqvae=vqvae)
    total = count + (recipe.tune.steps if recipe.tune is not None else 0)
    if jobs > 1 and model is not None:
        blocks = None if progress is None else lambda done, of: progress(done, total)
        _spread(parts, str(model), set(range(count)) - done, jobs, count, blocks)
    else:
        for index, layers in quantize_blocks(var, recipe, samples, skip=done):
            if layers is not None:
                parts.keep(index, list(layers.values()))
            if progress is not None:
                progress(index + 1, total)
            del layers
    if recipe.tune is not None:
        return _tuned(parts, var, samples, count, progress)
    return _assemble(parts, var, samples, count)


def _tuned(
    parts: Parts,
    var: Model,
    samples: CalibrationSet | None,
    count: int,
    progress: Progress | None,
) -> HardwareReport:
    """Tune the model, which is needed whole, and write it."""
    layers: dict[LinearSite, Layer] = {}
    for index in range(count):
        layers |= files.read(parts.block(index), parts.model).unpacked()
    state = parts.folder / "tune.pt"
    model = tuned_model(QuantizedVar(parts.recipe, layers), var, samples, progress, state)
    model.attention = measured_attention(model, var, samples)
    model.save(parts.path, var)
    shutil.rmtree(parts.folder)
    return hardware(model, var)


def _assemble(
    parts: Parts, var: Model, samples: CalibrationSet | None, count: int
) -> HardwareReport:
    """Join the blocks; codes stay codes and are copied one tensor at a time."""
    packed: list[dict[str, Any]] = []
    paths: dict[str, Path] = {}
    light: dict[LinearSite, Layer] = {}
    grid: dict[LinearSite, bool] = {}
    for index in range(count):
        content = files.read(parts.block(index), parts.model)
        packed += content.layers
        paths |= dict.fromkeys(content.tensors, parts.block(index))
        light |= content.unpacked(weights=False)
        grid |= content.on_grid()
        del content
    attention_tensors: dict[str, Tensor] = {}
    measured = light
    if attention_needs_data(parts.recipe.attention):  # needs the model whole
        measured = {}
        for index in range(count):
            measured |= files.read(parts.block(index), parts.model).unpacked()
    attention = measured_attention(QuantizedVar(parts.recipe, measured), var, samples)
    del measured
    state = files.attention_state(attention, attention_tensors)
    tensors = ChainMap[str, Tensor](
        attention_tensors,
        files.PartTensors(paths),  # type: ignore[arg-type]
    )
    files.write(parts.path, parts.recipe, parts.model, packed, state, tensors)
    report = hardware(QuantizedVar(parts.recipe, light, attention), var, grid)
    shutil.rmtree(parts.folder)
    return report


def _spread(
    parts: Parts, model: str, blocks: set[int], jobs: int, count: int, progress: Progress | None
) -> None:
    """Let processes work on their shares of the blocks."""
    shares = [sorted(blocks)[rank::jobs] for rank in range(jobs)]
    context = multiprocessing.get_context("spawn")
    before = multiprocessing.active_children()
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_leave_signals) as pool:
        waiting = {
            pool.submit(_work, parts.path, parts.recipe, model, share) for share in shares if share
        }
        try:
            while waiting:
                ended, waiting = wait(waiting, _POLL_SECONDS, return_when=FIRST_EXCEPTION)
                for job in ended:
                    job.result()
                if progress is not None:
                    progress(sum(parts.block(i).exists() for i in range(count)), count)
        except BaseException:
            # The pool would wait until every process has done its whole share.
            for process in multiprocessing.active_children():
                if process not in before:
                    process.terminate()
            raise


def _leave_signals() -> None:
    """In a process of the pool: the one that started it decides when to stop, and ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all of them
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))


def omp_threads() -> int:
    """Threads that OMP_NUM_THREADS asks for, 1 without it; a list ("4,2") begins with them."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return max(1, int(first)) if first.isdecimal() else 1


def _work(path: Path, recipe: Recipe, model: str, share: list[int]) -> None:
    """One process: its blocks, on one thread unless OMP_NUM_THREADS says how many."""
    from lutvar.quant.models import load_model
    from lutvar.quant.models.generator import is_generator, load_generator

    torch.set_num_threads(omp_threads())
    vqvae: Vqvae | None = None
    if is_generator(model):
        var: Model = load_generator(model).model
    else:
        loaded = load_model(model)
        var, vqvae = loaded.var, loaded.vqvae
    parts = Parts(path, recipe, files.fingerprint(var))
    samples = parts.samples
    samples = samples if samples is None else replace(samples, vqvae=vqvae)
    others = set(range(var.config.depth + 1)) - set(share)
    for index, layers in quantize_blocks(var, recipe, samples, skip=others):
        if layers is not None:
            parts.keep(index, list(layers.values()))
