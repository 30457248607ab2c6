# SPDX-License-Identifier: Apache-2.0
"""From a model's name to its codes for an accelerator."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from lutvar.contract.accelerator import AcceleratorConfig, load_accelerator
from lutvar.quant.by_name import Progress, quantized_by_name
from lutvar.quant.methods.hardware.export import export_file
from lutvar.quant.methods.recipes.files import fingerprint
from lutvar.quant.models import LoadedModel, load_model
from lutvar.quant.ptq.transformer import QuantizedTransformer, quantize_transformer


@dataclass(frozen=True)
class Quantized:
    """A model in every form that a run needs.

    Attributes:
        loaded: the float model with its tokenizer.
        transformer: the same at code level.
        config: the accelerator.
        origin: what the codes were made of, for files that are made of them: name and fingerprint
            of the model, preset or recipe.
    """

    loaded: LoadedModel
    transformer: QuantizedTransformer
    config: AcceleratorConfig
    origin: dict[str, str] = field(default_factory=dict)


def quantize(
    model: str,
    config: AcceleratorConfig | str,
    recipe: Path | str | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Load a model and quantize it as an accelerator runs it.

    Args:
        model: shipped model or model folder.
        config: accelerator, preset or file.
        recipe: what `lutvar quantize` wrote for this model, or the name of a shipped recipe,
            which is carried out (`quantized_by_name`); default: round to nearest in the
            accelerator's formats.
        progress: called as progress(done, of) while a recipe is carried out.

    Raises:
        QuantizedFileError: the file is not one of this model's.
        RecipeError: no such recipe.
        QuantizationError: the recipe needs other hardware.
        ValueError: the accelerator has other formats than the recipe.
    """
    config = load_accelerator(config) if isinstance(config, str) else config
    loaded = load_model(model)
    origin = {"model": loaded.info.name, "fingerprint": fingerprint(loaded.var)}
    if recipe is None:
        transformer = quantize_transformer(
            loaded.var, config.quant_config, config.kv_format, progress=False
        )
        return Quantized(loaded, transformer, config, origin | {"preset": transformer.config.name})
    file: AbstractContextManager[Path] = (
        quantized_by_name(loaded, recipe, progress) if isinstance(recipe, str)
        else nullcontext(recipe)
    )  # fmt: skip
    with file as path:
        made, transformer = export_file(path, loaded.var, config.kv_format)
    preset, formats = transformer.config, config.quant_config
    if not preset.runs_in(formats):
        raise ValueError(
            f"{recipe}: the recipe needs the formats of preset {preset.name}, {config.name} "
            f"has those of {config.quant}; choose an accelerator with that preset"
        )
    return Quantized(loaded, transformer, config, origin | {"recipe": made.name})
