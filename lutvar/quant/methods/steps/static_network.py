# SPDX-License-Identifier: Apache-2.0
"""PTQ4ARVG's static calibration in the order of its released code: the whole model at a time.

Source: PTQ4ARVG (arXiv:2601.21238), released code. Three passes over the calibration rows. The
first finds a range for each channel before the factors, with everything else quantized statically
already, and centres the channels on it. The second finds them again on centred channels; from these
and the float model's inputs come the gain-projected factors. The third finds the ranges that stay.
`symmetric-shift`, `gps` and `static-tokens` do the same block by block on the float model's inputs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from lutvar.quant.methods.attention.registry import make_attention
from lutvar.quant.methods.attention.static import StaticAttention
from lutvar.quant.methods.calibration.network import (
    RunningRange,
    WholeModel,
    parts_of,
    run_network,
)
from lutvar.quant.methods.calibration.rows import row_batches, shared_ranges
from lutvar.quant.methods.generator import generator_of
from lutvar.quant.methods.layers.operations import scale_channels
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.percentiles import ZeroPoints
from lutvar.quant.var.sites import SITE_NAMES, LinearSite, SiteName

from .base import ModelStep, register_step
from .gps import Formula, batch_factors
from .symmetric_shift import centre


@register_step("static-network")
class StaticNetwork(ModelStep):
    """Static ranges of all inputs, found while the quantized model runs on the calibration rows.

    Attributes:
        ranges: linear -> "scale", "sink", "pass" or "tensor", as of `static-tokens`. Linears that
            are not named keep their quantizer.
        centre: linears whose channels are centred first (`symmetric-shift`).
        gps: linears that get gain-projected factors after that.
        formula: of the factors, "paper" or "code".
        skip_first: linears of `centre` and `gps` whose first scale step does not count and is not
            quantized while their channels' ranges are found.
        inputs: "quantized" by everything before, or "float".
        zero_points: of several batches, "averaged" or "rounded".
        batch: rows that run together; later batches enter the moving average.
    """

    ranges: dict[SiteName, Literal["scale", "sink", "pass", "tensor"]]
    centre: tuple[SiteName, ...] = ("qkv", "fc1", "head")
    gps: tuple[SiteName, ...] = ("qkv", "fc1", "head")
    formula: Formula = "code"
    skip_first: tuple[SiteName, ...] = ("qkv", "fc1")
    inputs: Literal["quantized", "float"] = "quantized"
    zero_points: ZeroPoints = "averaged"
    batch: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, kind in self.ranges.items():
            if kind not in ("pass", "tensor") and name not in (*SITE_NAMES, "head"):
                raise ValueError(f"ranges.{name}: {kind}; its input has no scale steps: tensor")
        lacking = {*self.centre, *self.gps} - {*self.ranges}
        if lacking:
            raise ValueError(f"centre and gps: {', '.join(sorted(lacking))} must be in `ranges`")
        return self

    def apply_model(self, model: WholeModel) -> None:
        """Change all layers of a model."""
        layers = {s: layer for s, layer in model.layers.items() if s.name in self.ranges}
        for site, layer in layers.items():
            quantizer = layer.activation
            if not isinstance(quantizer, FakeQuantizer) or not quantizer.spec.asymmetric:
                raise ValueError(
                    f"{site}: static-network fixes the range of asymmetric integers, not of "
                    f"{quantizer!r}; write input: {{format: INT8, group: row, asymmetric: true}}"
                )
        moved = {site for site in layers if site.name in (*self.centre, *self.gps)}
        attention = self._attention(model)
        running = {site: self._running(model, site, site in moved) for site in layers}
        self._run(model, running, attention)
        for site, layer in layers.items():
            if site.name in self.centre:
                found = running[site]
                centre(layer, found.range.scale, found.range.zero_point, found.bits)
        if self.gps:
            for site, range_ in running.items():
                range_.follows = False
                if site in moved:
                    running[site] = self._running(model, site, True)
            if attention is not None:
                attention.follow(False)
            self._run(model, running, attention)
            self._scale(model, running)
        running = {site: self._running(model, site, False) for site in layers}
        self._run(model, running, self._attention(model))
        for site, layer in layers.items():
            assert isinstance(layer.activation, FakeQuantizer)
            integers = layer.activation.spec.format
            layer.activation = running[site].static(integers, self._pairs(model, site))

    def _attention(self, model: WholeModel) -> StaticAttention | None:
        """The recipe's static attention with fresh ranges; None leaves attention in float."""
        if model.attention is None or model.attention.get("kind") != "static":
            return None
        attention = make_attention(model.attention, model.var, None)
        assert isinstance(attention, StaticAttention)
        attention.follow(True)
        return attention

    def _run(
        self,
        model: WholeModel,
        running: dict[LinearSite, RunningRange],
        attention: StaticAttention | None,
    ) -> None:
        quantized = self.inputs == "quantized"
        run_network(
            model.var, model.calibration, model.layers, running,
            attention if quantized else None, self.batch, model.masked, quantized,
        )  # fmt: skip

    def _pairs(self, model: WholeModel, site: LinearSite) -> tuple[int, ...]:
        generator, kind = generator_of(model.var), self.ranges[site.name]
        if kind == "pass" and generator.null_input is not None and site.name not in SITE_NAMES:
            kind = "tensor"  # VAR's AdaLN sees one vector for all scales
        return shared_ranges(kind, generator.regions, generator.sink)

    def _running(self, model: WholeModel, site: LinearSite, by_channel: bool) -> RunningRange:
        generator, quantizer = generator_of(model.var), model.layers[site].activation
        scales, sink = generator.scales, generator.sink
        assert isinstance(quantizer, FakeQuantizer)
        parts = parts_of(self._pairs(model, site), scales)
        if by_channel:
            skip = site.name in self.skip_first and len(scales) > sink
            first = scales[sink - 1][1] if skip else 0
            parts = ((first, scales[-1][1]),)
        return RunningRange(quantizer.spec.bits, parts, by_channel, self.zero_points)

    def _scale(self, model: WholeModel, running: dict[LinearSite, RunningRange]) -> None:
        """Gain-projected factors from the float model's inputs and the ranges of channels."""
        for block in model.iter_blocks():
            for name, layer in block.layers.items():
                if name not in self.gps:
                    continue
                skip = name in self.skip_first
                rows = row_batches(block, layer, self.batch, skip)
                batches = [x.flatten(0, 1) for x, _ in rows]
                factors_I = batch_factors(batches, running[layer.site].range, layer, self.formula)
                scale_channels(layer, 1 / factors_I)
