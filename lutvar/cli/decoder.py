# SPDX-License-Identifier: Apache-2.0
"""`lutvar decoder`: the tokenizer's decoder at code level, its quality and its modelled work."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from lutvar.text import table

from .common import (
    command,
    emit,
    json_option,
    presets_option,
    progress,
    refuse_with,
    seed_option,
)

if TYPE_CHECKING:
    from lutvar.contract.decoder import DecoderShape
    from lutvar.contract.decoder_form import DecoderForm
    from lutvar.contract.quant_preset import QuantConfig

    Forms = list[tuple[QuantConfig, DecoderForm]]

OFFICIAL = "official"
#: Accelerator sizes whose cycles are modelled, by bits of a code.
CONFIGS = {4: "vck190-fp4", 6: "vck190-fp6"}
MEGAHERTZ = 250


@command("decoder")
@click.option(
    "--model",
    default="digits",
    metavar="NAME|DIR",
    help=f"A shipped model, a model folder, or {OFFICIAL!r}: the released tokenizer's architecture "
    "with random weights.",
)
@presets_option
@click.option(
    "--form",
    "forms",
    multiple=True,
    metavar="NAME",
    help="Terms of the operands (`all`, or a name); repeat for several. Default: what ships.",
)
@click.option("--images", default=20, type=click.IntRange(0), help="Images whose pixels compare.")
@click.option(
    "--side",
    default=16,
    type=click.IntRange(2, 32),
    help=f"With --model {OFFICIAL}: side of the latent map; images have 16 times as many pixels.",
)
@click.option(
    "--frechet",
    "samples",
    default=0,
    type=click.IntRange(0),
    help="Images of a seed whose Fréchet distance to real ones is compared; 0: none.",
)
@click.option("--seeds", default=3, type=click.IntRange(1), help="Seeds of --frechet.")
@click.option("--steps", is_flag=True, help="Cycles of every convolution.")
@click.option(
    "--programs",
    is_flag=True,
    help="Compile what decodes an image, and say what that takes in the compiler's cycle model.",
)
@seed_option
@json_option
def decoder(
    model: str,
    presets: tuple[str, ...],
    forms: tuple[str, ...],
    images: int,
    side: int,
    samples: int,
    seeds: int,
    steps: bool,
    programs: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Compare the decoder in FP4 and FP6 with the float one, and say what it takes.

    PSNR is that of the golden model's images against the float decoder's, for the latent maps of
    samples. Cycles are modelled from counts for one image, on vck190-fp4 and vck190-fp6 at
    250 MHz.
    """
    from lutvar.contract.decoder_form import FORMS, get_form, shipped_form
    from lutvar.contract.quant_preset import load_quant

    chosen: Forms = []
    for preset in map(load_quant, presets):
        named = FORMS.values() if "all" in forms else [get_form(name) for name in forms]
        chosen += [(preset, form) for form in (named or [shipped_form(preset)])]
    if model == OFFICIAL:
        refuse_with(f"--model {OFFICIAL}", samples="--frechet", seeds="--seeds")
    else:
        refuse_with(f"--model {model}", side="--side")
    data = _measure(model, chosen, images, side, samples, seeds, seed)
    shape = data.pop("shape")
    work = data["work"] = _work(shape, chosen)
    if programs:
        data["programs"] = _programs(shape, chosen)
    if not steps:
        for row in work:
            del row["steps"]
    emit(as_json, data, _text(data, steps))


def _measure(
    model: str, chosen: Forms, images: int, side: int, samples: int, seeds: int, seed: int
) -> dict[str, Any]:
    from lutvar.contract.decoder import DecoderShape
    from lutvar.quant.eval.decoder import Case, frechet, official, pixels, sampled
    from lutvar.quant.golden.decoder import decoder_shape
    from lutvar.quant.models import load_model

    data: dict[str, Any] = {"model": model, "pixels": [], "samples": []}
    loaded = None if model == OFFICIAL else load_model(model)
    if loaded is None:
        data["shape"] = DecoderShape.official((1, side))
    else:
        data["shape"] = decoder_shape(loaded.vqvae)
    if images:
        if loaded is None:
            case = official(side, images, seed)
        else:
            case = Case(loaded.vqvae, sampled(loaded, images, seed))
        with progress("forms") as update:
            data["pixels"] = [asdict(row) for row in pixels(case, chosen, update)]
    if samples and loaded is not None:
        first = [seed + number * samples for number in range(seeds)]
        with progress("samples") as update:
            rows = frechet(loaded, chosen, samples, first, update)
        data["samples"] = [asdict(row) for row in rows]
    return data


def _work(shape: DecoderShape, chosen: Forms) -> list[dict[str, Any]]:
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.sim.model.decoder import decoder_cycles

    rows = []
    for preset, form in chosen:
        config = CONFIGS[preset.code_bits]
        found = decoder_cycles(shape, form, load_accelerator(config))
        sums: dict[str, Any] = {
            key: sum(getattr(row, key) for row in found)
            for key in ("macs", "groups", "front", "matrix", "post", "norm", "total")
        }
        rows.append(
            {
                "preset": preset.name, "form": form.name, "config": config, **sums,
                "milliseconds": sums["total"] / MEGAHERTZ / 1000,
                "steps": [asdict(row) | {"total": row.total} for row in found],
            }
        )  # fmt: skip
    return rows


def _programs(shape: DecoderShape, chosen: Forms) -> list[dict[str, Any]]:
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.sim.model.decoder import decoder_programs

    rows = []
    with progress("programs") as update:
        for done, (preset, form) in enumerate(chosen, 1):
            config = CONFIGS[preset.code_bits]
            found = decoder_programs(shape, form, load_accelerator(config))
            rows.append(
                {
                    "preset": preset.name, "form": form.name, "config": config, **asdict(found),
                    "milliseconds": found.cycles / MEGAHERTZ / 1000,
                }
            )  # fmt: skip
            update(done, len(chosen))
    return rows


def _programs_text(rows: list[dict[str, Any]]) -> str:
    head = (
        "preset", "form", "programs on", "programs", "instructions", "weights, MiB", "maps, MiB",
        "cycles, M", "ms",
    )  # fmt: skip
    lines = [
        (
            r["preset"], r["form"], r["config"], r["programs"], f"{r['instructions']:,}",
            f"{r['weight_bytes'] / 2**20:.1f}", f"{r['map_bytes'] / 2**20:.1f}",
            f"{r['cycles'] / 1e6:.2f}", f"{r['milliseconds']:.1f}",
        )
        for r in rows
    ]  # fmt: skip
    return table(head, lines)


def _text(data: dict[str, Any], steps: bool) -> str:
    parts = []
    if data["pixels"]:
        lines = [(r["preset"], r["form"], f"{r['psnr_db']:.1f}") for r in data["pixels"]]
        parts.append(table(("preset", "form", "PSNR, dB"), lines))
    if data["samples"]:
        head = ("decoder", "Fréchet distance", "change from float")
        lines = [
            (r["decoder"], _interval(r["frechet"]), _interval(r["change"])) for r in data["samples"]
        ]
        parts.append(table(head, lines))
    parts.append(_work_text(data["work"]))
    if "programs" in data:
        parts.append(_programs_text(data["programs"]))
    if steps:
        parts += [_steps(row) for row in data["work"]]
    return "\n\n".join(parts)


def _work_text(work: list[dict[str, Any]]) -> str:
    head = (
        "preset", "form", "modelled on", "GMAC", "groups, M", "FRONT", "MATRIX", "POST",
        "cycles, M", "ms",
    )  # fmt: skip
    lines = [
        (
            r["preset"], r["form"], r["config"], f"{r['macs'] / 1e9:.2f}",
            *(f"{r[key] / 1e6:.2f}" for key in ("groups", "front", "matrix", "post", "total")),
            f"{r['milliseconds']:.1f}",
        )
        for r in work
    ]  # fmt: skip
    return table(head, lines)


def _steps(row: dict[str, Any]) -> str:
    head = (
        f"{row['preset']} {row['form']}",
        "MMAC",
        "FRONT",
        "MATRIX",
        "POST",
        "of it NORM",
        "all",
    )
    return table(
        head,
        [
            (s["name"], f"{s['macs'] / 1e6:.1f}", *(s[k] for k in ("front", "matrix", "post")),
             s["norm"], s["total"])
            for s in row["steps"]
        ],
    )  # fmt: skip


def _interval(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    half = "" if value["half_width"] is None else f" ± {value['half_width']:.3f}"
    return f"{value['mean']:.3f}{half}"
