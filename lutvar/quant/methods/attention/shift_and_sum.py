# SPDX-License-Identifier: Apache-2.0
"""Shift-and-Sum attention: values with high attention are quantized several times and averaged.

Source: Shift-and-Sum (arXiv:2606.16131) and its released code. A token whose mean score in the
current scale step exceeds theta has 2**n copies, n = ceil(log2(score / theta)) from 0 to 3. Copy i
of m is shifted by (2 i + 1 - m) / (2 m) of a step before it is rounded. With the step s = 1 the
average of the rounded copies of v is floor(m v + 1/2) / m (Hermite's identity), which is how it is
computed here; in hardware each copy is a code of the format and takes 1/m of the attention.

On a float grid the step differs from place to place. The rule here: with d and u the grid points
around v, copies are rounded to d or u with the shifts taken of u - d, so the average is
d + (u - d) floor(m (v - d)/(u - d) + 1/2) / m and the error at most (u - d) / (2 m) everywhere,
also where the step doubles. On a uniform grid both rules agree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from typing_extensions import Self

from lutvar.contract.names import Seed
from lutvar.quant.methods.calibration.samples import CalibrationSet, replay
from lutvar.quant.methods.errors import CalibrationError
from lutvar.quant.methods.quantizers.fake import FakeQuantizer
from lutvar.quant.methods.quantizers.straight import asymmetric_values, straight_round
from lutvar.quant.var import Var, generate

from .bit_operations import (
    FLOAT_BITS,
    MAX_DOUBLINGS,
    Scores,
    attention_operations,
    find_threshold,
    linear_operations,
)
from .plain import PlainAttention, PlainSettings
from .registry import MeasuredModel, register_attention


def log2_rows(p: Tensor, bits: int) -> Tensor:
    """Logarithmic quantization of [..., L] >= 0 with the row maximum as the scale.

    Codes 0..2**bits - 1 stand for max * 2**-code; what is smaller becomes 0. Gradients pass
    straight through the rounding.
    """
    amax = p.amax(-1, keepdim=True).clamp_min(1e-6)
    code = straight_round(-torch.log2(p / amax + 1e-20))
    return torch.where(code < 2**bits, amax * torch.exp2(-code), 0.0)


def copies(score: Tensor, theta: float) -> Tensor:
    """Number of copies of a token with this score: 1, 2, 4 or 8."""
    return torch.exp2(torch.log2(score / theta).ceil().clamp(0, MAX_DOUBLINGS))


def averaged(quantizer: FakeQuantizer, v: Tensor, m: Tensor) -> Tensor:
    """Average of m shifted, quantized copies of v (see the module), m = 1 plain rounding.

    With a zero point, gradients pass straight through the rounding.

    Args:
        quantizer: its scales are those of v itself.
        v: [..., I].
        m: copies, broadcast against v.
    """
    scales = quantizer.scales(v)
    if scales.zero_point is not None:
        # As released: the average of the rounded copies is clamped, not each copy.
        n = quantizer.blocks(v) / scales.positive
        m = quantizer.blocks(m.expand_as(v).contiguous())
        zero_point, bits = scales.zero_point.detach(), quantizer.spec.bits
        mean = n + (torch.round(n * m) / m - n).detach()
        return asymmetric_values(mean, zero_point, scales.positive, bits, v)
    down, up = quantizer.neighbours(v, scales)
    width = up - down
    share = torch.where(width > 0, (v - down) / width, 0.0).clamp(0, 1)
    several = down + width * (torch.floor(share * m + 0.5) / m)
    return torch.where(m > 1, several, quantizer.apply(v, scales))


class ShiftAndSumSettings(PlainSettings):
    """Settings; q, k and v as for kind plain.

    Attributes:
        probability_bits: bits of logarithmic codes of the probabilities; None for
            `probabilities`, or float.
        v_scale: "head" one range for all cached tokens and channels of a head, as published;
            "token" as the quantizer of v says.
        theta: threshold; None to find it from the budget.
        alpha: extra bit operations that are allowed, as a share of all of the image.
        samples: calibration samples whose scores are measured.
        search: tokens of these samples: "given", or "generated": the quantized model draws its own,
            one image after another with the seed `generation_seed`, as released.
        generation_seed: see `search`.
        adaln: how often AdaLN vectors count in all bit operations of an image: "image" once, as
            they can be computed; "scale" once at every scale step, as the released code does.
    """

    kind: Literal["shift-and-sum"] = "shift-and-sum"
    probability_bits: int | None = Field(default=None, ge=2, le=8)
    v_scale: Literal["head", "token"] = "head"
    theta: float | None = Field(default=None, gt=0, le=1)
    alpha: float = Field(default=0.01, gt=0)
    samples: int = Field(default=1, ge=1)
    search: Literal["given", "generated"] = "given"
    generation_seed: Seed = 2025
    adaln: Literal["image", "scale"] = "image"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.v is None:
            raise ValueError("attention.v: shift-and-sum needs a quantizer of the values")
        if self.probability_bits is not None and self.probabilities is not None:
            raise ValueError("attention: give probabilities or probability_bits, not both")
        return self


@register_attention("shift-and-sum")
class ShiftAndSumAttention(PlainAttention):
    """Values are quantized where they are used, so the cache leaves them alone.

    Attributes:
        theta: the threshold; infinite where the budget allows no copies.
        notes: how it was found.
    """

    settings: ShiftAndSumSettings
    settings_type = ShiftAndSumSettings
    keeps_values = True

    def __init__(
        self, settings: Mapping[str, Any], var: Var, calibration: CalibrationSet | None
    ) -> None:
        super().__init__(settings, var, calibration)
        self.theta = math.inf if self.settings.theta is None else self.settings.theta
        self.notes: list[str] = []
        self._scores: list[Scores] | None = None

    @staticmethod
    def needs_data(settings: Mapping[str, Any]) -> bool:
        """Unless the threshold is given."""
        return settings.get("theta") is None

    def _product_bits(self, a: str, b: str) -> float:
        bits = {n: q.bits for n, q in self.quantizers.items()}
        if self.settings.probability_bits is not None:
            bits["probabilities"] = float(self.settings.probability_bits)
        return bits.get(a, FLOAT_BITS) * bits.get(b, FLOAT_BITS)

    def measure(self, model: MeasuredModel) -> None:
        """Find the threshold on the quantized model, with the copies so far."""
        if self.settings.theta is not None:
            return
        assert isinstance(model.var, Var)  # `check_model` refuses others
        config = model.var.config
        self._scores = []
        self._run(model.var, model.calibration.first(self.settings.samples))
        scores, self._scores = self._scores, None
        pv_bits = self._product_bits("probabilities", "v")
        vectors = len(config.patch_nums) if self.settings.adaln == "scale" else 1
        total = linear_operations(config, model.shapes, model.layers, vectors)
        total += attention_operations(config, self._product_bits("q", "k"), pv_bits)
        budget = self.settings.alpha * total
        theta = find_threshold(scores, budget, config.head_dim, pv_bits)
        self.theta = math.inf if theta is None else theta
        self.notes = [
            f"threshold {self.theta:g}: at most {budget:.4g} of {total:.4g} bit operations "
            f"({self.settings.alpha:.2%}) are extra"
            + ("; not even scoring is within it, no copies are made" if theta is None else "")
        ]

    def _run(self, var: Var, samples: CalibrationSet) -> None:
        """Run the samples, on their own tokens or on those that the model draws."""
        if self.settings.search == "given":
            replay(var, samples)
            return
        if samples.vqvae is None:
            raise CalibrationError(
                "attention.search: generated needs samples that know their tokenizer; make them "
                "with calibration_set, or use search: given"
            )
        for label in samples.labels_N.tolist():
            seed, how = self.settings.generation_seed, (samples.cfg, samples.top_k, samples.top_p)
            generate(var, samples.vqvae, [label], seed, *how)

    def state(self) -> dict[str, Any]:
        """Threshold and notes, for files; no threshold where no copies are made."""
        theta = self.theta if math.isfinite(self.theta) else None
        return {"theta": theta, "notes": self.notes}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""
        self.theta = math.inf if state["theta"] is None else float(state["theta"])
        self.notes = list(state["notes"])

    def product(self, block: int, p_BHlL: Tensor, v_BHLc: Tensor) -> Tensor:
        """Quantized probabilities times averaged copies of the values."""
        score_BHL = p_BHlL.mean(2)
        if self._scores is not None:
            self._scores.append(Scores(score_BHL, p_BHlL.shape[2]))
        m_BHL1 = copies(score_BHL, self.theta).unsqueeze(-1)
        quantizer = self.quantizers["v"]
        if self.settings.v_scale == "head":
            flat_m = m_BHL1.expand_as(v_BHLc).flatten(2)
            v_BHLc = averaged(quantizer, v_BHLc.flatten(2), flat_m).view_as(v_BHLc)
        else:
            v_BHLc = averaged(quantizer, v_BHLc, m_BHL1)
        if self.settings.probability_bits is not None:
            p_BHlL = log2_rows(p_BHlL, self.settings.probability_bits)
        else:
            p_BHlL = self._quantized("probabilities", p_BHlL)
        return p_BHlL @ v_BHLc
