# SPDX-License-Identifier: Apache-2.0
"""`lutvar list`: what other commands take by name, each with a line of meaning."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

import click

from lutvar.text import table

from .common import command, emit, json_option, note
from .errors import describe
from .inspecting.report import shape_text

if TYPE_CHECKING:
    from lutvar.quant.methods.plugins import Registry

Names = dict[str, str]


def _models() -> Names:
    folder = resources.files("lutvar") / "quant" / "models"
    names: Names = {}
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        described = item / "model.json"
        if described.is_file():
            data = json.loads(described.read_text(encoding="utf-8"))
            other = data.get("generator")  # RAR or PAR, which the accelerator does not run
            text = shape_text(data["var"] if other is None else other["shape"])
            family = "" if other is None else f"{other['family'].upper()}, "
            names[data["name"]] = f"{family}{len(data['classes'])} classes, {text}"
    return names


def _recipes() -> Names:
    from lutvar.yaml_files import read_yaml

    folder = resources.files("lutvar") / "configs" / "recipes"
    names: Names = {}
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        if item.name.endswith(".yaml"):
            data = read_yaml(item)
            source = data.get("source", "")
            names[data["name"]] = data.get("title", "") + (f"; {source}" if source else "")
    return names


def _formats() -> Names:
    from lutvar.contract.formats import CATALOG

    names: Names = {}
    for name, fmt in CATALOG.items():
        low, high = float(fmt.max_value(True)), float(fmt.max_value())
        scales = "a scale for each sign" if fmt.dual else "one scale"
        names[name] = f"{fmt.bits} bits, {-low:g} to {high:g} before scaling, {scales}"
    return names


def _registered(registry: Registry[Any]) -> Names:
    """Names of a registry; what another package offers is named without importing it."""
    offered = registry.plugins()
    names: Names = {}
    for name in registry.names():
        if name in offered:
            names[name] = f"entry point {offered[name]}"
            continue
        # Steps inherit the text of pydantic's base when they have none.
        text = (inspect.cleandoc(registry.get(name).__doc__ or "")).split("\n\n")[0]
        names[name] = " ".join(text.split())
    return names


def _steps() -> Names:
    from lutvar.quant.methods.steps import STEPS

    return _registered(STEPS)


def _attention() -> Names:
    from lutvar.quant.methods.attention.registry import KINDS

    return _registered(KINDS)


def _configs(kind: Literal["accelerator", "quant"]) -> Names:
    """Shipped files of a kind, with the comment at their top."""
    from lutvar.contract.quant_preset import preset_names

    folder = resources.files("lutvar") / "configs" / kind
    names: Names = {}
    for name in preset_names(kind):
        comment = []
        for line in (folder / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
            if not line.startswith("#"):
                break
            comment.append(line.lstrip("# "))
        names[name] = " ".join(comment)
    return names


def _sizes() -> Names:
    from dataclasses import asdict

    from lutvar.contract.shape import OFFICIAL_SIZES, TransformerShape

    return {name: shape_text(asdict(TransformerShape.official(name))) for name in OFFICIAL_SIZES}


def _forms() -> Names:
    from lutvar.contract.decoder_form import FORMS, SHIPPED

    names: Names = {}
    for form in FORMS.values():
        parts = (("straight", form.straight), ("coarse", form.coarse), ("fine", form.fine))
        terms = ", ".join(f"{what} {tuple(terms)}" for what, terms in parts)
        ships = "".join(
            f"; ships with {n} bits" for n, name in SHIPPED.items() if name == form.name
        )
        names[form.name] = f"terms (weights, inputs): {terms}{', rotated' * form.rotate}{ships}"
    return names


#: Kind -> where its names are given, and what they are.
KINDS: dict[str, tuple[str, Callable[[], Names]]] = {
    "models": ("--model, shipped", _models),
    "recipes": ("quantize --recipe, eval --recipe", _recipes),
    "presets": ("quantize --preset, `quant` of an accelerator", lambda: _configs("quant")),
    "accelerators": ("--config", lambda: _configs("accelerator")),
    "formats": ("`format` in recipes and presets", _formats),
    "steps": ("`step` in recipes", _steps),
    "attention": ("`attention.kind` in recipes", _attention),
    "sizes": ("estimate --model, released", _sizes),
    "forms": ("decoder --form", _forms),
}


@command("list")
@click.argument("kinds", nargs=-1, type=click.Choice(list(KINDS)))
@json_option
def list_names(kinds: tuple[str, ...], as_json: bool) -> None:
    """List what is there by name: all KINDS, or the ones given.

    Files work where names do: a .yaml file for a recipe, a preset or an accelerator, a folder for a
    model. `lutvar inspect` says what is in a file.
    """
    data: dict[str, Names] = {}
    for kind in kinds or KINDS:
        try:
            data[kind] = KINDS[kind][1]()
        except ModuleNotFoundError as error:
            missing = describe(error)
            if kinds or missing is None:
                raise
            note(f"{kind}: {missing[0]}")
    parts = [
        f"{kind} ({KINDS[kind][0]})\n{table(('name', 'meaning'), names.items())}"
        for kind, names in data.items()
    ]
    emit(as_json, data, "\n\n".join(parts))
