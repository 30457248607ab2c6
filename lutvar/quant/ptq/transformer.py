# SPDX-License-Identifier: Apache-2.0
"""A whole VAR transformer as the accelerator runs it: layers, attention scales, class vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from lutvar.contract.accelerator import HEAD_DIM
from lutvar.contract.formats import NumberFormat, get_format
from lutvar.contract.quant_preset import QuantConfig
from lutvar.contract.shape import TransformerShape
from lutvar.contract.terms import ONE_TERM
from lutvar.quant.generators import ParConfig, RarConfig
from lutvar.quant.generators.accelerator import refusal
from lutvar.quant.var import Var, VarConfig
from lutvar.quant.var.blocks import LOG_SCALE_MAX, VarBlock
from lutvar.quant.var.sites import LinearSite, SiteName

from .class_vectors import (
    ClassVectors,
    Factors,
    Half,
    Shifts,
    VectorSource,
    check_factors,
    check_shifts,
    hidden_vectors,
)
from .linear import PrequantizedWeight, QuantizedLinear, quantize_linear
from .weights import QuantizationError, need_groups

#: With up to so many classes, null class included, all vectors are computed with the model.
MAX_TABLE_CLASSES = 64


@dataclass(frozen=True, eq=False)
class QuantizedTransformer:
    """The transformer at the level of codes.

    Attributes:
        shape: sizes.
        classes: number of classes; the null class has this index.
        config: preset of the linears.
        kv_format: format of q, k and v in the attention products.
        eps: of every layer norm.
        layers: site -> layer, in the order they run; the last one is the head.
        kappa: [depth, heads] FP16, attention scale times log2(e).
        factors: channel factors, for the sites that have some.
        shifts: channel shifts, for the sites that have some.
        vectors: class -> vectors, for the classes computed so far.
        source: computes the vectors of the others.
    """

    shape: TransformerShape
    classes: int
    config: QuantConfig
    kv_format: NumberFormat
    eps: float
    layers: Mapping[LinearSite, QuantizedLinear]
    kappa: Half
    source: Callable[[int], ClassVectors]
    factors: Factors = field(default_factory=dict)
    vectors: dict[int, ClassVectors] = field(default_factory=dict)
    shifts: Shifts = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = self.shape
        expected = {
            "qkv": (3 * shape.width, shape.width),
            "proj": (shape.width, shape.width),
            "fc1": (shape.hidden, shape.width),
            "fc2": (shape.width, shape.hidden),
        }
        sizes = {LinearSite(i, n): s for i in range(shape.depth) for n, s in expected.items()}  # type: ignore[arg-type]
        sizes[LinearSite(shape.depth, "head")] = (shape.vocab, shape.width)
        for site, size in sizes.items():
            actual = self.layers[site].codes.shape if site in self.layers else "missing"
            if actual != size:
                raise QuantizationError(f"{site}: weights are {actual}; the shape needs {size}")
        if self.kappa.shape != (shape.depth, shape.heads) or self.kappa.dtype != np.float16:
            raise QuantizationError(
                f"kappa is {self.kappa.dtype} {self.kappa.shape}; expected float16 "
                f"({shape.depth}, {shape.heads})"
            )

    @property
    def null_label(self) -> int:
        """Index of the class "none", of the unconditional half."""
        return self.classes

    def layer(self, block: int, name: SiteName) -> QuantizedLinear:
        """A layer of a block; "head" for any block."""
        return self.layers[LinearSite(self.shape.depth if name == "head" else block, name)]

    @property
    def head(self) -> QuantizedLinear:
        """The linear that makes logits."""
        return self.layer(0, "head")

    def hidden_vector(self, block: int, name: Literal["factor", "shift"]) -> Half | None:
        """What GELU's results of a block are multiplied with, or get added: FP16 [hidden]."""
        values = (self.factors if name == "factor" else self.shifts).get(LinearSite(block, "fc2"))
        return None if values is None else values.astype(np.float16)

    def class_vectors(self, label: int) -> ClassVectors:
        """AdaLN vectors of a class; computed once.

        Raises:
            ValueError: no such class.
        """
        self._need_class(label)
        if label not in self.vectors:
            self.vectors[label] = self.source(label)
        return self.vectors[label]

    def each_class(self, labels: Sequence[int]) -> Iterator[ClassVectors]:
        """AdaLN vectors of classes, one after the other.

        Some are computed together and none is kept: those of a thousand classes of a large model
        are most of a gigabyte.

        Raises:
            ValueError: no such class.
        """
        for label in labels:
            self._need_class(label)
        left = [label for label in labels if label not in self.vectors]
        source = self.source
        made = source.many(left) if isinstance(source, VectorSource) else map(source, left)
        for label in labels:
            yield self.vectors[label] if label in self.vectors else next(made)

    def _need_class(self, label: int) -> None:
        if not 0 <= label <= self.classes:
            raise ValueError(f"class {label}: the model has 0 to {self.classes} (the null class)")


def check_transformer(config: VarConfig | RarConfig | ParConfig) -> None:
    """Raise QuantizationError for a model that the accelerator cannot run."""
    if not isinstance(config, VarConfig):
        raise QuantizationError(refusal("the model", config))
    if not config.attn_l2_norm:
        raise QuantizationError(
            "attn_l2_norm is off; attention of the accelerator works on unit-length q and k only"
        )
    if config.head_dim != HEAD_DIM:
        raise QuantizationError(
            f"heads of {config.head_dim} columns ({config.heads} in width {config.width}); "
            f"attention of the accelerator needs {HEAD_DIM}, here {config.width // HEAD_DIM} heads"
        )


def quantize_transformer(
    var: Var,
    config: QuantConfig,
    kv_format: str | NumberFormat = "E2M3",
    factors: Factors | None = None,
    progress: bool = True,
    prequantized: Mapping[LinearSite, PrequantizedWeight] | None = None,
    shifts: Shifts | None = None,
    terms: Mapping[LinearSite, tuple[int, int]] | None = None,
) -> QuantizedTransformer:
    """Quantize all linears, the head included (the model itself is not changed).

    Args:
        var: the float model.
        config: preset.
        kv_format: format of q, k and v, E2M3 or E2M1.
        factors: positive vectors s of sites qkv, fc1, fc2 or head: s goes into the norm's vectors
            or, rounded to FP16, behind GELU; 1 / s into the weights.
        progress: show a bar on a terminal.
        prequantized: codes and scales of weights that were rounded elsewhere, `factors` taken off.
        shifts: vectors t of sites qkv, fc1, fc2 or head, added to the norm's or, in FP16, to
            GELU's output after the factors; the site must be in `prequantized`, whose bias takes
            them back.
        terms: codes whose sum the weights and inputs of a site are, (weights, inputs); default one
            each, and for sites in `prequantized` what is said there.

    Raises:
        QuantizationError: a model without attn_l2_norm or with heads that are not 64 columns, or
            a layer that cannot be quantized (`quantize_linear`).
    """
    check_transformer(var.config)
    factors = dict(factors or {})
    head = LinearSite(var.config.depth, "head")
    sites = [*var.iter_sites(), (head, var.head.weight, var.head.bias)]
    for site, weight, _ in sites:
        need_groups(str(site), weight.shape[1])
    layers, prequantized, shifts = {}, prequantized or {}, dict(shifts or {})
    inputs = {site: weight.shape[1] for site, weight, _ in sites}
    check_factors(factors, inputs)
    check_shifts(shifts, inputs, prequantized)
    hidden_vectors(factors, "factor")
    hidden_vectors(shifts, "shift")
    for site, weight, bias in tqdm(
        sites, desc=f"quantize ({config.name})", unit="layer", disable=None if progress else True
    ):
        divided = weight.detach().cpu()
        if site in factors and site not in prequantized:
            divided = divided.float() / torch.from_numpy(factors[site])
        layers[site] = quantize_linear(
            site, divided, bias, config, prequantized.get(site), (terms or {}).get(site, ONE_TERM)
        )
    result = QuantizedTransformer(
        shape=var.config.shape,
        classes=var.config.num_classes,
        config=config,
        kv_format=kv_format if isinstance(kv_format, NumberFormat) else get_format(kv_format),
        eps=var.config.norm_eps,
        layers=layers,
        kappa=_kappa(var),
        factors=factors,
        source=VectorSource(var, factors, shifts),
        shifts=shifts,
    )
    if result.classes < MAX_TABLE_CLASSES:
        for label in range(result.classes + 1):
            result.class_vectors(label)
    return result


def _kappa(var: Var) -> Half:
    """[depth, heads] FP16: `exp(min(scale_mul, ln 100)) * log2(e)` in float64, rounded once."""
    rows = []
    for block in var.blocks:
        assert isinstance(block, VarBlock)
        logarithm = block.attn.scale_mul_1H11.detach().cpu().double().reshape(-1)
        rows.append(logarithm.clamp_max(LOG_SCALE_MAX).exp().numpy() / math.log(2))
    return np.stack(rows).astype(np.float16)
