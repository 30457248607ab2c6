# SPDX-License-Identifier: Apache-2.0
"""One training run from images to a model folder: classifier, tokenizer, transformer, report."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lutvar.files import json_text, make_folder, prepare_output, write_file
from lutvar.quant.eval.reference import REFERENCE_FILE, make_reference, save_reference
from lutvar.quant.models import FORMAT, LoadedModel, load_model
from lutvar.quant.models.classifier import agreement, load_classifier, save_classifier
from lutvar.quant.var import Vqvae, load_var, load_vqvae, save_model

from .cifar import load_cifar10
from .classifier import ClassifierStage
from .data import ImageSet, load_digits
from .features import judge_stage
from .loop import StageRun, run_stage, seed_step
from .measure import held_out_loss, measure_samples, measure_tokenizer, sample_balanced
from .plans import CIFAR10, DIGITS, TrainPlan
from .report import draw_curves, draw_sheet, write_card
from .var import VarStage
from .vqvae import VqvaeStage


def train(
    out_dir: str | Path,
    seed: int = 0,
    resume: bool = True,
    plan: TrainPlan = DIGITS,
    progress: bool = True,
) -> LoadedModel:
    """Train a model into a folder that `lutvar.quant.models.load_model` reads.

    Interrupt it at any time; the same call continues where it stopped. The folder gets
    model.json last, so it is a model only once everything is there. Computes with one thread:
    sums then have the same order, and the model the same weights, on any number of cores.

    Args:
        out_dir: folder of the result, made if missing; working state goes to out_dir/state.
        seed: decides the weights, together with the plan.
        resume: continue from out_dir/state when it holds a state of the same plan and seed.
        plan: shapes, schedules and sampling settings.
        progress: show progress bars.

    Returns:
        The model as loaded from the folder.

    Raises:
        ImportError: scikit-learn or matplotlib is missing.
        cifar.DataError: plan cifar10 and no file of its images.
        loop.ResumeError: the saved state is damaged or of another plan or seed.
        KeyboardInterrupt: Ctrl-C, with the state saved.
    """
    threads, kind = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)  # that of new layers
    try:
        return _train(Path(out_dir), seed, resume, plan, progress)
    finally:
        torch.set_num_threads(threads)
        torch.set_default_dtype(kind)


def _train(out: Path, seed: int, resume: bool, plan: TrainPlan, progress: bool) -> LoadedModel:
    data = load_cifar10() if plan.name == CIFAR10.name else load_digits()
    state = out / "state"
    make_folder(state)
    prepare_output(out / "model.json")
    runs: dict[str, StageRun] = {}

    seed_step(seed, ClassifierStage.name, -1)
    judge = judge_stage(data, plan.classifier_steps)
    runs[judge.name] = run_stage(judge, state, seed, resume, progress=progress)
    save_classifier(out / "classifier.safetensors", judge.result())

    seed_step(seed, VqvaeStage.name, -1)
    tokenizer = VqvaeStage(data, plan.vqvae)
    runs[tokenizer.name] = run_stage(tokenizer, state, seed, resume, progress=progress)
    tokenizer_file = out / plan.weights("vqvae")
    save_model(tokenizer_file, tokenizer.model, half=True)
    # From here on the tokenizer is the rounded one that is shipped.
    vqvae = load_vqvae(tokenizer_file)

    seed_step(seed, VarStage.name, -1)
    transformer = VarStage(data, vqvae, plan.var, _sha256(tokenizer_file))
    runs[transformer.name] = run_stage(transformer, state, seed, resume, progress=progress)
    averaged = transformer.averaged
    averaged.config = replace(averaged.config, drop_rate=0.0)
    save_model(out / plan.weights("var"), averaged, half=True)
    _report(out, plan, seed, data, vqvae, runs)
    return load_model(out)


def _report(
    out: Path,
    plan: TrainPlan,
    seed: int,
    data: ImageSet,
    vqvae: Vqvae,
    runs: dict[str, StageRun],
) -> None:
    """Measure the stored weights; write the pictures, the card and, last, model.json."""
    var = load_var(out / plan.weights("var"))
    judge = load_classifier(out / "classifier.safetensors")
    sampled = sample_balanced(var, vqvae, plan.samples, seed, plan.cfg, plan.top_k, plan.top_p)
    real = ((data.val_images + 1) / 2, data.val_labels)
    train = ((data.train_images + 1) / 2, data.train_labels)
    reference = make_reference(out / "classifier.safetensors", train, real)
    save_reference(out / REFERENCE_FILE, reference)
    figures: dict[str, Any] = {
        "samples": plan.samples,
        "train_images": len(data.train_labels),
        "val_images": len(data.val_labels),
        "classifier_accuracy": agreement(judge, real[0], real[1]),
        "val_loss": held_out_loss(data, var, vqvae),
        **measure_tokenizer(data, vqvae),
        **measure_samples(data, judge, vqvae, sampled),
    }
    weights = plan.weights("var"), plan.weights("vqvae")
    files = (*weights, "classifier.safetensors", REFERENCE_FILE)
    description = {
        "format": FORMAT,
        "name": plan.name,
        "seed": seed,
        "sampling": {"cfg": plan.cfg, "top_k": plan.top_k, "top_p": plan.top_p},
        "classes": list(plan.classes),
        "var": var.config.to_dict(),
        "vqvae": vqvae.config.to_dict(),
        "parameters": {"var": _count(var), "vqvae": _count(vqvae)},
        "bytes": sum((out / f).stat().st_size for f in weights),
        "figures": {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()},
        "files": {f: _sha256(out / f) for f in files},
    }
    draw_curves(out / "curves.png", {name: run.history for name, run in runs.items()})
    draw_sheet(out / "samples.png", sampled[:2], real, plan.classes)
    write_card(out / "MODEL_CARD.md", description, runs, plan)
    write_file(out / "model.json", json_text(description, indent=1) + "\n")


def _count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
