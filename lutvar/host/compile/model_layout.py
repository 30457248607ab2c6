# SPDX-License-Identifier: Apache-2.0
"""Where the parts of a packed transformer lie in region MODEL, from sizes alone.

Order: the layers (block by block: qkv, proj, fc1, fc2; then the head), each as its tiles of
outputs, each tile as its weight panels in order of groups (of weights in two terms those of the
second set behind those of the first); then kappa of each block; then, block by
block, what GELU's results are multiplied with and get added; then the class vectors, label by
label. Tiles start at multiples of 4 KiB, vectors at multiples of 64 bytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from lutvar.contract.accelerator import (
    AcceleratorConfig,
)
from lutvar.contract.memory import panel_beats
from lutvar.contract.quant_preset import GROUP, SITE_NAMES, QuantConfig
from lutvar.contract.shape import TransformerShape
from lutvar.contract.terms import ONE_TERM, Terms, check_terms

from .errors import CompileError
from .layer_plan import (
    InputSlice,
    LayerPlan,
    WeightTile,
    padded,
    slices_bytes,
    split_inputs,
    split_outputs,
)
from .limits import check_limits

PAGE = 4096
HEAD = "head"
#: Layers whose rows pass a norm first, and so come whole.
NORM_SITES = ("qkv", "fc1", HEAD)
#: Vectors of a block for a class, in memory order, each C values of FP16.
BLOCK_VECTORS = ("scale1", "shift1", "gate1", "scale2", "shift2", "gate2")
HEAD_VECTORS = ("scale", "shift")
#: Vectors of a block behind GELU, in memory order, each [hidden] of FP16; a model may lack either.
HIDDEN_VECTORS = ("factor", "shift")


@dataclass(frozen=True)
class ModelLayout:
    """Offsets in region MODEL.

    Attributes:
        shape, config: what it was computed for.
        labels: classes whose vectors are in the image, in order; the null class included.
        layers: block by block, then the head.
        kappa_base, class_base, size: byte offsets.
        quant: how the model's linears are treated; a preset that the accelerator runs.
        hidden: which of `HIDDEN_VECTORS` the model has.
        terms: of each layer's operands, in the order of `layers`.
    """

    shape: TransformerShape
    config: AcceleratorConfig
    labels: tuple[int, ...]
    layers: tuple[LayerPlan, ...]
    kappa_base: int
    class_base: int
    size: int
    quant: QuantConfig
    hidden: tuple[str, ...]

    @classmethod
    def of(
        cls,
        shape: TransformerShape,
        config: AcceleratorConfig,
        labels: Sequence[int] = (),
        quant: QuantConfig | None = None,
        hidden: Sequence[str] = (),
        terms: Sequence[tuple[int, int]] = (),
    ) -> ModelLayout:
        """Lay out a transformer; `quant` None is the accelerator's own preset, no terms one each.

        Raises CompileError for sizes or formats that the accelerator cannot run.
        """
        check_limits(shape, config)
        quant, bits = quant or config.quant_config, config.quant_config.code_bits
        if not quant.runs_in(config.quant_config):
            raise CompileError(
                f"the model is quantized with preset {quant.name}, {config.name} runs "
                f"{config.quant}; quantize with {config.quant}"
            )
        sizes = {
            "qkv": (shape.width, 3 * shape.width),
            "proj": (shape.width, shape.width),
            "fc1": (shape.width, shape.hidden),
            "fc2": (shape.hidden, shape.width),
            HEAD: (shape.width, padded(shape.vocab)),
        }
        layers: list[LayerPlan] = []
        at = 0
        blocks = [(f"block{i}.{s}", s) for i in range(shape.depth) for s in SITE_NAMES]
        names: list[tuple[str, str]] = [*blocks, (HEAD, HEAD)]
        if terms and len(terms) != len(names):
            raise CompileError(f"terms of {len(terms)} layers; the model has {len(names)}")
        each = [Terms(*pair) for pair in terms] or [ONE_TERM] * len(names)
        for (name, site), own in zip(names, each, strict=True):
            inputs, outputs = sizes[site]
            # The head is treated as fc1 is: contract, section 12.
            treatment = quant.sites["fc1" if site == HEAD else site]
            groups = inputs // GROUP
            slices = _slices(name, site, groups, own, treatment.format.dual, config)
            tiles = []
            for first, count in split_outputs(outputs, config.acc_depth, config.max_sections):
                beats = panel_beats(count, bits, first=True), panel_beats(count, bits, first=False)
                tiles.append(WeightTile(first, count, at, *beats))
                size = own.weights * slices_bytes(slices, *beats)
                at += -(-size // PAGE) * PAGE
            layers.append(
                LayerPlan(
                    name,
                    site,
                    groups,
                    outputs,
                    treatment.rotate,
                    treatment.format.dual,
                    own,
                    tuple(tiles),
                    slices,
                )
            )
        hidden = tuple(name for name in HIDDEN_VECTORS if name in hidden)
        class_base = at + shape.depth * (shape.width + len(hidden) * shape.hidden) * 2
        layout = cls(shape, config, tuple(labels), tuple(layers), at, class_base, 0, quant, hidden)
        size = class_base + len(layout.labels) * layout.class_stride
        object.__setattr__(layout, "size", -(-size // PAGE) * PAGE)
        return layout

    @property
    def terms(self) -> tuple[Terms, ...]:
        """Terms of each layer's operands."""
        return tuple(layer.terms for layer in self.layers)

    @cached_property
    def _first_sets(self) -> tuple[int, ...]:
        counts = (layer.terms.weights for layer in self.layers)
        return tuple(itertools.accumulate(counts, initial=0))

    @property
    def sets(self) -> int:
        """Sets of weights of all layers; each has a scale exponent."""
        return self._first_sets[-1]

    def set_index(self, block: int, site: str, number: int = 0) -> int:
        """Place of a layer's set of weights among those of all layers, which are in order."""
        return self._first_sets[self._layer_index(block, site)] + number

    @staticmethod
    def _layer_index(block: int, site: str) -> int:
        return -2 if site == HEAD else block * len(SITE_NAMES) + SITE_NAMES.index(site)

    @property
    def vector_bytes(self) -> int:
        """Bytes of one FP16 vector of C values."""
        return self.shape.width * 2

    @property
    def class_stride(self) -> int:
        """Bytes of the vectors of one class."""
        count = self.shape.depth * len(BLOCK_VECTORS) + len(HEAD_VECTORS)
        return count * self.vector_bytes

    @cached_property
    def sorted_labels(self) -> tuple[int, ...]:
        """`labels` in ascending order."""
        return tuple(sorted(self.labels))

    @cached_property
    def _class_index(self) -> dict[int, int]:
        return {label: i for i, label in enumerate(self.labels)}

    def layer(self, block: int, site: str) -> LayerPlan:
        """A block's layer, or the head (`site` HEAD, any block)."""
        return self.layers[-1 if site == HEAD else self._layer_index(block, site)]

    def kappa(self, block: int) -> int:
        """Offset of a block's kappa vector: [C], each head's value 64 times."""
        return self.kappa_base + block * self.vector_bytes

    def hidden_vector(self, block: int, name: str) -> int:
        """Offset of a vector behind a block's GELU (a name in `hidden`), [hidden]."""
        index = block * len(self.hidden) + self.hidden.index(name)
        return self.kappa(self.shape.depth) + index * self.shape.hidden * 2

    def class_offset(self, label: int) -> int:
        """Offset of the vectors of a class. Raises CompileError if it was not packed."""
        if label not in self._class_index:
            raise CompileError(
                f"class {label} is not in the packed model, which holds {len(self.labels)} "
                f"classes; pack it with this class"
            )
        return self.class_base + self._class_index[label] * self.class_stride

    def block_vector(self, label: int, block: int, name: str) -> int:
        """Offset of one AdaLN vector of a block (a name in BLOCK_VECTORS)."""
        index = block * len(BLOCK_VECTORS) + BLOCK_VECTORS.index(name)
        return self.class_offset(label) + index * self.vector_bytes

    def head_vector(self, label: int, name: str) -> int:
        """Offset of one AdaLN vector of the head (a name in HEAD_VECTORS)."""
        index = self.shape.depth * len(BLOCK_VECTORS) + HEAD_VECTORS.index(name)
        return self.class_offset(label) + index * self.vector_bytes


def _slices(
    name: str, site: str, groups: int, terms: Terms, dual: bool, config: AcceleratorConfig
) -> tuple[InputSlice, ...]:
    """Parts of a layer's inputs; each term of a group takes a place of its own in a bank.

    Raises CompileError for terms that the accelerator cannot run.
    """
    try:
        check_terms(name, terms, dual)
    except ValueError as error:
        raise CompileError(str(error)) from error
    if terms.inputs > config.input_terms:
        raise CompileError(
            f"{name}: inputs in {terms.inputs} terms; {config.name} has input_terms "
            f"{config.input_terms}. Use an accelerator with input_terms 2, or one term"
        )
    fit = config.bank_groups // terms.inputs
    if not fit or (site in NORM_SITES and groups > fit):
        raise CompileError(
            f"{name}: {groups} groups of inputs in {terms.inputs} terms take "
            f"{groups * terms.inputs} of a bank's, and rows are normalised whole; {config.name} "
            f"has bank_groups {config.bank_groups}. Use one term for these inputs"
        )
    return split_inputs(groups, fit)
