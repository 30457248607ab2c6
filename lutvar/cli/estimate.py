# SPDX-License-Identifier: Apache-2.0
"""`lutvar estimate`: modelled speed and resources of the accelerator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import Number, command, emit, given, json_option, progress, refuse_with

if TYPE_CHECKING:
    from lutvar.contract.accelerator import AcceleratorConfig
    from lutvar.contract.decoder import DecoderShape
    from lutvar.contract.quant_preset import QuantConfig
    from lutvar.contract.shape import TransformerShape
    from lutvar.contract.terms import Terms

MAX_CLOCK = 10_000.0  #: MHz; an order of magnitude beyond any FPGA
MODELS = ("d16", "d20", "d24", "d30", "d36-s")
#: A board's name stands for all its configurations.
BOARDS = {"vck190": ("vck190-fp4", "vck190-latency-fp4", "vck190-fp6")}
#: Schedules of a table, with images in a pass (staggered: at each scale).
PLANS = (("single", 1), ("batch", 2), ("batch", 4), ("batch", 8), ("stagger", 1), ("stagger", 4))


@command("estimate")
@click.option(
    "--config",
    default="vck190-fp4",
    metavar="NAME|FILE",
    help="Accelerator size; or a board, vck190: a table of all its sizes and schedules.",
)
@click.option(
    "--model",
    default="d30",
    metavar="NAME",
    help="A released size (d16 ... d36-s), a shipped model, or a model folder.",
)
@click.option(
    "--clock",
    type=Number(0, MAX_CLOCK, min_open=True),
    default=250.0,
    metavar="MHZ",
    help="Clock.",
)
@click.option(
    "--schedule",
    type=click.Choice(["single", "batch", "stagger"]),
    default="stagger",
    help="One image, a batch, or images staggered over the scales.",
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    metavar="N",
    help="Images of a batch, or at each scale.",
)
@click.option(
    "--preset",
    metavar="NAME|FILE",
    help="Quantization preset of the model, one that the accelerator runs: fp4 passes over fc2 "
    "twice. Default: fp4-single or fp6-single, which pass once.",
)
@click.option(
    "--recipe",
    metavar="NAME|FILE",
    help="Formats and terms of a recipe (a shipped one, a YAML file) or of a file of `lutvar "
    "quantize`, in place of a preset.",
)
@click.option("--no-guidance", is_flag=True, help="Conditional rows only.")
@click.option("--full", is_flag=True, help="Compile every block of the model; slower.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change a value of the accelerator size, for example rows=352.",
)
@click.option(
    "--tile-rows",
    type=click.IntRange(1),
    metavar="N",
    help="Rows of every tile, instead of what the compiler finds fastest for each pass.",
)
@click.option(
    "--sections",
    type=click.IntRange(1),
    metavar="N",
    help="Most sections that a tile is computed in; default: all that the accelerator has.",
)
@click.option("--table", "as_table", is_flag=True, help="All released sizes and schedules.")
@click.option(
    "--compare",
    "as_comparison",
    is_flag=True,
    help="The same array for FP4, FP6, INT4 and INT8 at equal LUTs.",
)
@click.option(
    "--host",
    type=click.Choice(["a72", "desktop"]),
    default="a72",
    help="Whose times for sampling, decoder and the rest are added: the board's cores (stated) or "
    "a desktop's (measured).",
)
@click.option(
    "--decoder",
    type=click.Choice(["device", "host"]),
    default="device",
    help="Who decodes: the device, if it can decode this model's images, or the host.",
)
@json_option
def estimate(
    config: str, model: str, clock: float, schedule: str, batch: int, preset: str | None,
    recipe: str | None, no_guidance: bool, full: bool, changes: tuple[str, ...],
    tile_rows: int | None, sections: int | None, as_table: bool, as_comparison: bool, host: str,
    decoder: str, as_json: bool,
) -> None:  # fmt: skip
    """Model speed, memory traffic and resources of a transformer on an accelerator.

    The program is compiled and run on the cycle model; every figure of the device is modelled.
    Beside the transformer stand decoder, sampling and the rest of the host, and all of it end to
    end: what a user waits for pixels.
    """
    from lutvar.contract.accelerator import load_accelerator
    from lutvar.sim.model.compare import compare, compare_dict, compare_text
    from lutvar.sim.model.end_to_end import EndToEnd, decoder_seconds
    from lutvar.sim.model.hosts import HostTimes
    from lutvar.sim.model.many import Request, estimate_many, estimate_one
    from lutvar.sim.model.model import Estimate
    from lutvar.sim.model.resources import resources
    from lutvar.sim.model.text import estimate_text, resources_text, table_text

    _refuse_conflicts(as_table, as_comparison, config, schedule)

    def load(name: str) -> AcceleratorConfig:
        base = load_accelerator(name)
        return _changed(base, changes) if changes else base

    decoding: dict[tuple[AcceleratorConfig, DecoderShape], float | None] = {}

    def whole(result: Estimate, request: Request) -> EndToEnd:
        tokenizer = None if decoder == "host" else _tokenizer(request.model, request.shape)
        seconds = None
        if tokenizer is not None:
            key = request.config, tokenizer
            if key not in decoding:
                decoding[key] = decoder_seconds(tokenizer, request.config, clock)
            seconds = decoding[key]
        return EndToEnd(result, HostTimes.of(host, request.shape), seconds)

    guided = not no_guidance
    if as_table or config in BOARDS:
        names = BOARDS["vck190"] if as_table and not given("config") else BOARDS.get(config)
        requests = [
            Request(
                hardware, shape_of(size), size, s, n, guided, clock, full, _quant(preset, hardware)
            )
            for hardware in map(load, names or (config,))
            for size in (MODELS if as_table else (model,))
            for s, n in PLANS
        ]
        with progress("modelling schedules") as update:
            results = estimate_many(requests, on_done=update)
        wholes = [whole(result, request) for result, request in zip(results, requests, strict=True)]
        emit(
            as_json,
            [{**w.estimate.as_dict(), "end_to_end": w.as_dict()} for w in wholes],
            table_text(results, wholes) + _changes_note(changes),
        )
        return
    hardware = load(config)
    if as_comparison:
        with progress("modelling formats") as update:
            lines = compare(
                hardware, shape_of(model), model, schedule=schedule, batch=batch,
                guided=guided, clock=clock, full=full, on_done=update,
            )  # fmt: skip
        emit(
            as_json,
            compare_dict(lines, hardware.name, model),
            compare_text(lines, hardware.name, model) + _changes_note(changes),
        )
        return
    shape = shape_of(model)
    quant = _quant(preset, hardware)
    terms: tuple[Terms, ...] = ()
    if recipe is not None:
        from lutvar.sim.model.recipe_terms import recipe_terms

        quant, terms = recipe_terms(recipe, shape.depth)
    request = Request(
        hardware, shape, model, schedule, batch, guided, clock, full, quant, tile_rows, sections,
        terms,
    )  # fmt: skip
    result = estimate_one(request)
    used, image = resources(hardware), whole(result, request)
    emit(
        as_json,
        {**result.as_dict(), "end_to_end": image.as_dict(), "resources": used.as_dict()},
        f"{estimate_text(result, image)}\n\n{resources_text(used)}{_changes_note(changes)}",
    )


def _refuse_conflicts(as_table: bool, as_comparison: bool, config: str, schedule: str) -> None:
    """Refuse options that would be ignored."""
    if as_comparison:
        refuse_with(
            "--compare (device alone, formats of its own)", host="--host", preset="--preset",
            recipe="--recipe", decoder="--decoder",
        )  # fmt: skip
    if given("recipe"):
        refuse_with("--recipe (its formats)", preset="--preset")
    if as_table and as_comparison:
        raise click.UsageError("--table and --compare exclude each other; give one")
    every = "" if as_table else f"--config {config} (all schedules)"
    if as_table:
        refuse_with("--table (all released models)", model="--model")
    if as_table or as_comparison or config in BOARDS:
        refuse_with(
            "an estimate of several accelerators", tile_rows="--tile-rows", sections="--sections",
            recipe="--recipe",
        )  # fmt: skip
    if as_table or config in BOARDS:
        refuse_with(every or "--table (all schedules)", schedule="--schedule", batch="--batch")
    if config in BOARDS and as_comparison:
        raise click.UsageError(
            f"--compare needs one accelerator; {config} is a board with {', '.join(BOARDS[config])}"
        )
    if schedule == "single":
        refuse_with("--schedule single (one image)", batch="--batch")


def _changes_note(changes: Sequence[str]) -> str:
    """What `-changed` behind an accelerator's name means."""
    return f"\n-changed: with {', '.join(changes)}" if changes else ""


def _quant(preset: str | None, hardware: AcceleratorConfig) -> QuantConfig:
    from lutvar.contract.quant_preset import model_quant

    return model_quant(preset, hardware.quant)


def shape_of(model: str) -> Any:
    """Sizes of a released model by name, or of a shipped one, or of that in a folder."""
    if model in MODELS:
        from lutvar.contract.shape import TransformerShape

        return TransformerShape.official(model)  # needs no model, so no torch either
    from lutvar.quant.models import known_models, load_model

    if model not in known_models() and not Path(model).exists():
        known = ", ".join((*MODELS, *known_models()))
        raise click.BadParameter(
            f"unknown model {model!r}; known are {known} (or give a model folder)",
            param_hint="--model",
        )
    return load_model(model).var.config.shape


def _tokenizer(model: str, shape: TransformerShape) -> DecoderShape | None:
    """Sizes of a model's decoder; None: no accelerator decodes its images."""
    from lutvar.contract.decoder import DecoderShape
    from lutvar.contract.errors import ConfigError

    if model in MODELS:
        return DecoderShape.official(shape.patch_nums)
    from lutvar.quant.golden.decoder import decoder_shape
    from lutvar.quant.models import load_model

    try:
        return decoder_shape(load_model(model).vqvae)
    except ConfigError:
        return None


def _changed(config: Any, changes: Sequence[str]) -> Any:
    from pydantic import ValidationError

    values = config.model_dump()
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or key not in values or key == "name":  # it gets one that says so
            keys = ", ".join(key for key in values if key != "name")
            raise click.BadParameter(
                f"{change!r}; it must be KEY=VALUE with a key of {keys}",
                param_hint="--set",
            )
        values[key] = int(value) if value.isdecimal() else value  # choices are exact
    try:
        return type(config)(**{**values, "name": f"{config.name}-changed"})
    except ValidationError as error:
        first = error.errors()[0]
        text = str(first["msg"]).removeprefix("Value error, ")
        if first["loc"]:  # a rule of several fields names them itself
            key = str(first["loc"][0])
            text = f"{key} is {values[key]!r}: {text}"
        raise click.BadParameter(text, param_hint="--set") from None
