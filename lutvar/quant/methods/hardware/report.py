# SPDX-License-Identifier: Apache-2.0
"""What a recipe asks of hardware: bits, bytes, multipliers, and whether the accelerator runs it.

The rules are those of docs/arithmetic.md: groups of 128 with absolute maxima as scales, one weight
format, one treatment of each site in all blocks, factors and shifts behind norms and GELU only, one
Hadamard transform of 128, attention on E2M3 or E2M1 records. A recipe either passes all of them,
or the report names each part for which hardware does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from lutvar.contract.costs import load_array_costs
from lutvar.contract.formats import get_format
from lutvar.contract.quant_preset import QuantConfig, SiteConfig, load_quant, preset_names
from lutvar.quant.generators.accelerator import lacks
from lutvar.quant.methods.generator import Model
from lutvar.quant.methods.layers.layer import Layer
from lutvar.quant.methods.layers.operations import Rotation
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.spec import Sharing
from lutvar.quant.methods.recipes.build import iter_linears
from lutvar.quant.methods.recipes.quantized_var import QuantizedVar
from lutvar.quant.ptq.transformer import check_transformer
from lutvar.quant.ptq.weights import QuantizationError
from lutvar.quant.var import Var
from lutvar.quant.var.sites import SITE_NAMES, LinearSite, SiteName

from .array_rules import KvFormat, attention_problems, layer_problems

#: Linears that the accelerator computes; the host computes the others in float32.
ARRAY_SITES: tuple[SiteName, ...] = (*SITE_NAMES, "head")
FLOAT_BITS = 16.0  #: of a weight that stays float


class Multiplier(NamedTuple):
    """An array that the recipe needs, with LUT sites for each lane by form of the array.

    `luts` is empty when this pair of formats was never synthesised.
    """

    weight: str
    inputs: tuple[str, ...]
    luts: Mapping[str, float]

    def __str__(self) -> str:
        costs = ", ".join(f"{form} {value:.2f} LUT" for form, value in self.luts.items())
        return f"{self.weight} x {' and '.join(self.inputs)}: {costs or 'never synthesised'}"


@dataclass(frozen=True)
class HardwareReport:
    """What a recipe needs.

    Attributes:
        recipe: its name.
        bits_per_weight: of the linears that the recipe quantizes, scales included; 16 for none.
        bytes_per_weight: read at each scale step, mean over block linears and head, float ones as
            FP16, low-rank branches included.
        multipliers: arrays that the quantized linears need.
        missing: parts that need hardware that does not exist.
        unshipped: the preset that is missing when there is hardware, but none configured so.
        added: parts that the recipe leaves float and the accelerator quantizes nevertheless, and
            parts that the host computes.
        config: preset for the linears, or None when there cannot be one.
        preset: the shipped preset that is the same, or None.
        kv_format: format of the attention records.
    """

    recipe: str
    bits_per_weight: float
    bytes_per_weight: float
    multipliers: tuple[Multiplier, ...]
    missing: tuple[str, ...]
    unshipped: str | None
    added: tuple[str, ...]
    config: QuantConfig | None
    preset: str | None
    kv_format: KvFormat

    @property
    def runs(self) -> bool:
        """Whether a shipped accelerator configuration runs it as it stands."""
        return not self.missing and self.preset is not None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "recipe": self.recipe,
            "bits_per_weight": self.bits_per_weight,
            "bytes_per_weight_read": self.bytes_per_weight,
            "multipliers": [
                {"weight": m.weight, "inputs": list(m.inputs), "luts": dict(m.luts)}
                for m in self.multipliers
            ],
            "runs": self.runs,
            "preset": self.preset,
            "kv_format": self.kv_format,
            "missing": list(self.missing),
            "unshipped": self.unshipped,
            "added": list(self.added),
        }

    def text(self) -> str:
        """Lines for people."""
        lines = [
            f"{self.bits_per_weight:.3f} bits for each quantized weight, "
            f"{self.bytes_per_weight:.3f} bytes read for each weight of blocks and head",
            *(f"array {m}" for m in self.multipliers),
        ]
        if self.runs:
            lines.append(f"the accelerator runs it: preset {self.preset}, cache {self.kv_format}")
        else:
            lines.append("the accelerator does not run it:")
        if self.unshipped is not None:
            lines.append(f"  missing configuration: {self.unshipped}")
        lines += [f"  missing: {item}" for item in self.missing]
        lines += [f"  note: {item}" for item in self.added]
        return "\n".join(lines)


def hardware(
    quantized: QuantizedVar, var: Model, on_grid: Mapping[LinearSite, bool] | None = None
) -> HardwareReport:
    """Judge the layers that a recipe made for a model.

    `on_grid` says for each layer whether its weight is grid integers times scales, where the
    weights themselves are not at hand.
    """
    depth, layers = var.config.depth, quantized.layers
    covered = [layer for site, layer in layers.items() if site.name in ARRAY_SITES]
    problems: dict[str, list[Layer]] = {}
    for layer in covered:
        is_on_grid = None if on_grid is None else on_grid[layer.site]
        for problem in layer_problems(layer, is_on_grid):
            problems.setdefault(problem, []).append(layer)
    missing = [f"{_where(affected, depth)}: {problem}" for problem, affected in problems.items()]
    added: list[str] = []
    for name in SITE_NAMES:
        if not any(layer.site.name == name for layer in covered):
            missing.append(f"{name}: float in this recipe; the array multiplies codes only")
    config, more = _config(quantized, covered) if not missing else (None, [])
    missing += more
    if not any(layer.site.name == "head" for layer in covered):
        added.append("head: float in this recipe; the accelerator quantizes it as it does fc1")
    host = sorted({site.name for site in layers} - set(ARRAY_SITES))
    if host:
        added.append(f"{', '.join(host)}: the host computes them in float32, not quantized")
    kv_format, more, remarks = attention_problems(quantized)
    missing += more
    added += remarks
    if isinstance(var, Var):
        try:
            check_transformer(var.config)
        except QuantizationError as error:
            missing.append(f"attention: {error}")
    else:
        missing += lacks(var.config)
    preset = None if config is None else shipped(config)
    unshipped = None
    if config is not None and preset is None:
        shown = ", ".join(preset_names("quant"))
        unshipped = f"{_formats(config)}; shipped are the presets {shown}"
    bits, read = _sizes(quantized, var)
    return HardwareReport(
        quantized.recipe.name, bits, read, _multipliers(covered), tuple(missing), unshipped,
        tuple(added), config, preset, kv_format,
    )  # fmt: skip


def _where(layers: list[Layer], depth: int) -> str:
    names: dict[str, list[int]] = {}
    for layer in layers:
        names.setdefault(layer.site.name, []).append(layer.site.block)
    return ", ".join(
        name if name == "head" or len(blocks) == depth else f"{name} of block {blocks[0]}"
        + (f" and {len(blocks) - 1} more" if len(blocks) > 1 else "")
        for name, blocks in names.items()
    )  # fmt: skip


def _config(quantized: QuantizedVar, layers: list[Layer]) -> tuple[QuantConfig | None, list[str]]:
    """The preset that describes these layers, or what stands against one."""
    weights = sorted({layer.weight.format.name for layer in layers if layer.weight})
    if len(weights) > 1:
        return None, [f"weights in {', '.join(weights)}; an accelerator has one weight format"]
    sites: dict[str, SiteConfig] = {}
    seeds = {42}
    problems = []
    for layer in layers:
        assert isinstance(layer.activation, FakeQuantizer)
        rotations = [op for op in layer.operations if isinstance(op, Rotation)]
        if rotations and rotations[0].seed is not None:
            seeds = {rotations[0].seed} if seeds == {42} else seeds | {rotations[0].seed}
        name = "fc1" if layer.site.name == "head" else layer.site.name
        site = SiteConfig(activation=layer.activation.format.name, rotate=bool(rotations))
        if sites.setdefault(name, site) != site:
            problems.append(f"{layer.site}: treated differently from {name} before it")
    if len(seeds) > 1:
        problems.append(f"sign vectors of seeds {sorted(seeds)}; an accelerator has one")
    if problems:
        return None, [problems[0] + "; a configuration treats a site alike everywhere"]
    try:
        config = QuantConfig(
            name=quantized.recipe.name, weight=weights[0], hadamard_seed=seeds.pop(), sites=sites
        )
    except ValidationError as error:
        return None, [item["msg"].removeprefix("Value error, ") for item in error.errors()]
    # The shipped preset itself, name included, is what packed models are compared with.
    preset = shipped(config)
    return (config if preset is None else load_quant(preset)), []


def shipped(config: QuantConfig) -> str | None:
    """Name of the shipped preset that says the same."""
    for name in preset_names("quant"):
        if load_quant(name).model_copy(update={"name": config.name}) == config:
            return name
    return None


def _formats(config: QuantConfig) -> str:
    sites = (
        f"{name} {site.activation}{' rotated' if site.rotate else ''}"
        for name, site in config.sites.items()
    )
    return f"weights {config.weight}, inputs {', '.join(sites)}"


def _sizes(quantized: QuantizedVar, var: Model) -> tuple[float, float]:
    """Bits of a quantized weight, bytes of a weight of blocks and head."""
    quantized_bits = quantized_weights = read_bits = read_weights = 0.0
    for index in range(var.config.depth + 1):
        for site, weight_OI, _ in iter_linears(var, index):
            count = weight_OI.numel()
            layer, bits = quantized.layers.get(site), FLOAT_BITS * count
            if layer is not None and layer.weight is not None:
                bits = (layer.weight.bits + scale_bits(layer.weight, weight_OI.shape[1])) * count
                bits *= layer.terms[0]
                quantized_bits += bits
                quantized_weights += count
            if layer is not None and layer.low_rank is not None:
                bits += FLOAT_BITS * sum(part.numel() for part in layer.low_rank)
            if site.name in ARRAY_SITES:
                read_bits += bits
                read_weights += count
    mean = quantized_bits / quantized_weights if quantized_weights else FLOAT_BITS
    return mean, read_bits / read_weights / 8


def scale_bits(quantizer: FakeQuantizer, inputs: int) -> float:
    """Bits of scales for each weight, those of rows of `inputs` values included."""
    spec = quantizer.spec
    if spec.group == Sharing.ROW:
        return spec.model_copy(update={"group": inputs}).scale_bits()
    return spec.scale_bits()


def _multipliers(layers: list[Layer]) -> tuple[Multiplier, ...]:
    """One array for a weight format with at most one plain and one dual format, else one a pair."""
    pairs: dict[str, set[str]] = {}
    for layer in layers:
        if layer.weight is not None and isinstance(layer.activation, FakeQuantizer):
            name = layer.activation.format.name
            pairs.setdefault(layer.weight.format.name, set()).add(name)
    arrays = []
    for weight, inputs in pairs.items():
        plain = sorted(n for n in inputs if not get_format(n).dual)
        dual = sorted(inputs - set(plain))
        if len(plain) == 1 and len(dual) <= 1:
            arrays.append((weight, (*plain, *dual)))
        else:
            arrays += [(weight, (name,)) for name in (*plain, *dual)]
    return tuple(Multiplier(w, names, _costs(w, names)) for w, names in arrays)


def _costs(weight: str, inputs: tuple[str, ...]) -> dict[str, float]:
    """Form of the array -> LUT sites of a lane, from the syntheses that come with lutvar."""
    plain, dual = inputs[0], inputs[1] if len(inputs) > 1 else None
    return {
        cost.form: cost.lut
        for cost in load_array_costs()
        if (cost.weight, cost.plain, cost.dual) == (weight, plain, dual)
    }
